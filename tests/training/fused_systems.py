"""Systems of known answers on a case store, in the files that a training leaves."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from real_store import CLASS_NAMES, SIZE
from torch import Tensor, nn

from samcancer.config import Config, ModelConfig, config_to_dict
from samcancer.data.case_store import CaseStore
from samcancer.data.folds import load_or_create_folds
from samcancer.files import write_text_atomic
from samcancer.modeling import NetOutput
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.run import CONFIG_NAME, FOLDS_NAME, fold_name

FOLDS = 2
LESION_LEVEL = 0.66
"""Windowed grey value between the noise (40 HU, sd 20) and the lesions (150 HU more)."""
BLIND_LEVEL = 2.0
"""That nothing reaches."""


class LevelNet(nn.Module):
    """Class k is what is brighter than level k in some of the rows."""

    def __init__(
        self, levels: tuple[float, float] = (0.0, 0.0), rows: tuple[int, int] = (0, SIZE)
    ) -> None:
        super().__init__()
        self.class_names = CLASS_NAMES
        self.register_buffer("levels", torch.tensor(levels))
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> NetOutput:
        logits = 50 * (chunk[:, 2:-2, None] - self.levels[:, None, None])
        first, stop = self.rows.tolist()
        row = torch.arange(SIZE)[:, None]
        logits = logits.masked_fill((row < first) | (row >= stop), -20.0)
        return NetOutput(logits, logits.amax(dim=(-2, -1)))


def build(_config: ModelConfig, _class_names: tuple[str, ...]) -> nn.Module:
    return LevelNet()


def finds(*class_names: str, rows: tuple[int, int] = (0, SIZE)) -> LevelNet:
    """A network that outlines the lesions of these classes and nothing of others."""
    first, second = (LESION_LEVEL if n in class_names else BLIND_LEVEL for n in CLASS_NAMES)
    return LevelNet((first, second), rows)


def write_system(
    store: CaseStore, runs: Path, net: nn.Module, *, model: ModelConfig | None = None, seed: int = 0
) -> Path:
    """Write fold runs and a final run, all with the same weights."""
    config = Config(model=model or ModelConfig(image_size=SIZE), folds=FOLDS)
    write_text_atomic(runs / CONFIG_NAME, yaml.safe_dump(config_to_dict(config)))
    folds = load_or_create_folds(store, runs / FOLDS_NAME, count=FOLDS, seed=seed)
    for fold in range(FOLDS):
        save_run(
            store,
            runs / fold_name(fold),
            net,
            config,
            fold=fold,
            training=folds.training_cases(fold),
            held_out=folds.held_out_cases(fold),
        )
    save_run(store, runs / "final", net, config, training=sorted(store.cases))
    return runs


def save_run(
    store: CaseStore,
    folder: Path,
    net: nn.Module,
    config: Config,
    *,
    fold: int | None = None,
    training: list[str],
    held_out: list[str] | None = None,
) -> None:
    """Write a finished run."""
    training_patients, held_out_patients = (
        tuple(store.cases[case_id].patient_id for case_id in case_ids)
        for case_ids in (training, held_out or [])
    )
    meta = CheckpointMeta(
        config=config,
        class_names=tuple(store.class_names),
        fold=fold,
        training_patients=training_patients,
        held_out_patients=held_out_patients,
        store_fingerprint=store.fingerprint(),
    )
    save_checkpoint(folder / "best", net, meta)
