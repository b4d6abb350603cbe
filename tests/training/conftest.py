from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from memory_store import CLASS_NAMES, MemoryLedger, MemoryStore, partly_labelled_store
from torch import Tensor, nn

from samcancer.config import AugmentationConfig, Config, DataConfig, ModelConfig, TrainConfig
from samcancer.data.sampling import PoolCase, SlicePool
from samcancer.modeling import NetOutput
from samcancer.modeling.manual_prompts import ManualPrompts
from samcancer.training.checkpoint import CheckpointMeta
from samcancer.training.devices import start_fabric
from samcancer.training.loop import TrainJob


class SmallNet(nn.Module):
    """The forward signature of the SAMCancer network with a few convolutions and dropout.

    A prompt raises the logits of its slice and class, so that other prompts make another run.
    """

    slice_context = 2
    takes_manual_prompts = True

    def __init__(self, class_count: int = 2) -> None:
        super().__init__()
        self.class_names = CLASS_NAMES
        self.frozen = nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
        self.mix = nn.Conv3d(1, 4, 5, padding=(0, 2, 2))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Conv2d(8, class_count, 3, padding=1)

    def forward(
        self,
        chunk: Tensor,
        presence: Tensor | None = None,
        manual: ManualPrompts | None = None,
    ) -> NetOutput:
        mixed = self.mix(chunk[:, None])  # (B, 4, T, S, S)
        targets = chunk[:, 2:-2]
        b, t, s, _ = targets.shape
        centre = self.frozen(targets.reshape(b * t, 1, s, s))
        features = torch.cat([mixed.transpose(1, 2).reshape(b * t, 4, s, s), centre], dim=1)
        logits = self.head(self.dropout(torch.relu(features))).reshape(b, t, -1, s, s)
        if manual is not None:
            logits = logits + 0.1 * manual.given()[..., None, None]
        return NetOutput(logits, logits.amax(dim=(-2, -1)))


def small_net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet()


def small_config(**train: Any) -> Config:
    defaults: dict[str, Any] = {"epochs": 6, "batch_size": 4, "samples_per_epoch": 12}
    return Config(
        model=ModelConfig(image_size=32),
        data=DataConfig(workers=0, slices_per_sample=2),
        augmentation=AugmentationConfig(flip=True),
        train=TrainConfig(**{**defaults, "validate_every": 2, "learning_rate": 1e-2, **train}),
    )


def make_job(folder: Path, config: Config, store: MemoryStore | None = None) -> TrainJob:
    """Train on the first case of each class and the healthy one, validate on the second ones."""
    store = store or partly_labelled_store()
    training = [case_id for case_id in store.cases if not case_id.endswith("_2")]
    held_out = tuple(case_id for case_id in store.cases if case_id.endswith("_2"))
    pool = SlicePool(
        tuple(
            PoolCase(c.case_id, c.dataset, c.slices, c.positive_slices)
            for c in (store.cases[case_id] for case_id in training)
        ),
        config.data.slices_per_sample,
    )
    meta = CheckpointMeta(
        config=config,
        class_names=store.class_names,
        run="fold_0",
        fold=0,
        training_patients=tuple(store.cases[case_id].patient_id for case_id in training),
        held_out_patients=tuple(store.cases[case_id].patient_id for case_id in held_out),
        store_fingerprint=store.fingerprint(),
    )
    return TrainJob(store, MemoryLedger(store), pool, held_out, meta, folder)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    return start_fabric(accelerator="cpu", precision="32-true")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
