"""An untrained network as a finished run, small enough to segment a scan in a moment."""

from __future__ import annotations

from pathlib import Path

import torch

from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.network import build_network

CLASSES = ("liver_lesion", "kidney_lesion")


def save_run(folder: Path, *, image_size: int = 32, seed: int = 0) -> Path:
    """Write ``best``, with presence thresholds that every slice reaches."""
    config = Config(
        model=ModelConfig(image_size=image_size, cnn_width=4),
        data=DataConfig(inference_window_hu=(-160.0, 240.0)),
    )
    with torch.random.fork_rng():
        model = build_network(config.model, CLASSES, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    meta = CheckpointMeta(
        config=config, class_names=CLASSES, presence_thresholds=dict.fromkeys(CLASSES, 0.0)
    )
    save_checkpoint(folder / "best", model, meta)
    return folder
