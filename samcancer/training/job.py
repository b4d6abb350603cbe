"""What a run trains on, and the batches that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samcancer.data.case_store import CaseStore
from samcancer.data.dataset import LabelledDataset, StackDataset
from samcancer.data.feature_cache import FeatureCache
from samcancer.data.ledger import Ledger
from samcancer.data.patches import PatchDataset
from samcancer.data.sampling import EpochSchedule, SlicePool
from samcancer.training.checkpoint import CheckpointMeta
from samcancer.training.loader import BatchLoader


@dataclass(frozen=True)
class TrainJob:
    """What to train on, and what to say about it in checkpoints."""

    store: CaseStore
    ledger: Ledger
    pool: SlicePool
    """Of the training cases."""
    validation_cases: tuple[str, ...]
    meta: CheckpointMeta
    """Configuration, classes, patients; epoch, step and results are filled in."""
    folder: Path
    features: FeatureCache | None = None
    """What the frozen encoder says of the training cases; None has it compute that anew."""


def make_schedule(job: TrainJob, *, rank: int = 0, world_size: int = 1) -> EpochSchedule:
    """Return the batches of one process of the run."""
    config = job.meta.config
    return EpochSchedule(
        job.pool,
        seed=config.train.seed,
        batch_size=config.train.batch_size,
        samples_per_epoch=config.train.samples_per_epoch,
        lesion_fraction=config.data.lesion_fraction,
        rank=rank,
        world_size=world_size,
    )


def make_loader(job: TrainJob, schedule: EpochSchedule, *, device: torch.device) -> BatchLoader:
    """Return what serves the schedule's batches."""
    dataset = _make_dataset(job)
    return BatchLoader(dataset, schedule, workers=job.meta.config.data.workers, device=device)


def _make_dataset(job: TrainJob) -> LabelledDataset:
    config = job.meta.config
    parts: dict[str, Any] = {
        "case_ids": [case.case_id for case in job.pool.cases],
        "data": config.data,
        "augmentation": config.augmentation,
        "unknown_labels": config.train.unknown_labels,
    }
    if config.model.system == "universal":
        return PatchDataset(job.store, job.ledger, patches=config.model.universal, **parts)
    return StackDataset(job.store, job.ledger, features=job.features, **parts)
