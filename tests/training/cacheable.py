"""Configurations whose features can be cached, on the small stores of real_store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_store import SIZE

from samcancer.config import AugmentationConfig, Config, DataConfig, ModelConfig, TrainConfig
from samcancer.data.case_store import CaseStore
from samcancer.modeling.encoders import ENCODERS, DecoderShape, EncoderSpec, VitShape
from samcancer.modeling.encoders.sam_weights import fold_patches
from samcancer.training.cached_features import fill, plan_fill
from samcancer.training.network import build_network

SMALL_SAM = "small_sam"


@contextlib.contextmanager
def small_sam_is_known() -> Iterator[None]:
    """Offer a small frozen encoder with SAM's architecture by name."""
    spec = EncoderSpec(
        vit=VitShape(dim=32, depth=4, heads=2, out_channels=32),
        decoder=DecoderShape(depth=2, heads=4, mlp_dim=48, extra_mask_tokens=0),
        frozen=True,
        convert=fold_patches,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, SMALL_SAM, spec)
        yield


def cacheable_config(*, encoder: str = SMALL_SAM, **train: Any) -> Config:
    """Ladder with a frozen encoder of seeded random weights, two windows, no augmentation."""
    defaults: dict[str, Any] = {"epochs": 2, "samples_per_epoch": 20, "batch_size": 2}
    return Config(
        model=ModelConfig(image_size=SIZE, cnn_width=4, encoder=encoder, interaction="ladder"),
        data=DataConfig(workers=0, slices_per_sample=2),
        augmentation=AugmentationConfig(probability=0),
        train=TrainConfig(**{**defaults, "validate_every": None, "learning_rate": 1e-3, **train}),
        folds=2,
    )


def fill_cache(folder: Path, store: CaseStore, config: Config) -> int:
    """Compute what the folder lacks; return of how many cases and windows."""
    model = build_network(config.model, store.class_names, seed=config.train.seed)
    plan = plan_fill(folder, store, model, config)
    fill(plan, model, device="cpu", show_progress=False)
    return len(plan.to_do)
