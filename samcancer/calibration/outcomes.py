"""What every candidate would do to one class of one scan, kept in place of the scan's volumes.

A network runs once over a scan; of its probabilities one byte a voxel is kept until the scan is
done: how many of the probability thresholds it exceeds (:func:`levels_of_logits`). Presence gates
slices, so components are found anew for every presence threshold that leaves other slices, exactly
as inference finds them (26-connectivity). A candidate is judged by the rules of
samcancer.evaluation.lesions: a reference lesion is detected when a tenth of it is covered. Volumes
are those of the store's grid.

Arrays over candidates: (presence, probability, volume). Masks: (slice, row, column).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from samcancer.calibration.grid import Grid
from samcancer.evaluation.boxes import bounding_box
from samcancer.evaluation.lesions import MIN_OVERLAP, SIZE_BANDS_ML
from samcancer.inference.components import NEIGHBOURHOOD


@dataclass(frozen=True)
class HealthyOutcome:
    """A class that a scan is known not to hold."""

    scan: str
    class_name: str
    fold: int
    """In which the scan is left out when the calibration itself is cross-validated."""
    false: NDArray[np.bool_]
    """Candidates that mark a lesion."""


@dataclass(frozen=True)
class LesionOutcome:
    """A class that a scan holds."""

    scan: str
    class_name: str
    fold: int
    lesions: NDArray[np.int64]
    """(bands,) reference lesions of each of ``SIZE_BANDS_ML``."""
    detected: NDArray[np.int64]
    """(bands, presence, probability, volume) of them."""
    dice: NDArray[np.float64]
    """Volume Dice."""


Outcome: TypeAlias = HealthyOutcome | LesionOutcome


class ClassOfScan(NamedTuple):
    """What there is to judge."""

    scan: str
    class_name: str
    fold: int
    levels: NDArray[np.uint8]
    """Probability thresholds that each voxel exceeds."""
    presence: NDArray[np.float32]
    """(slices,) presence probabilities."""
    reference: NDArray[np.bool_] | None
    """What a person marked; None where there is nothing."""
    voxel_volume_ml: float


def levels_of_logits(logits: Tensor, grid: Grid) -> Tensor:
    """Return how many probability thresholds each logit exceeds, uint8."""
    levels = torch.zeros(logits.shape, dtype=torch.uint8, device=logits.device)
    for threshold in grid.logits:
        levels += logits > float(threshold)
    return levels


def judge(subject: ClassOfScan, grid: Grid) -> Outcome:
    """Judge every candidate on a class of a scan."""
    reference = subject.reference
    if reference is None or not reference.any():
        return _judge_healthy(subject, grid)
    return _judge_lesions(subject, reference, grid)


def _judge_healthy(subject: ClassOfScan, grid: Grid) -> HealthyOutcome:
    false = np.zeros(grid.shape, dtype=bool)
    smallest_ml = np.array(grid.min_volume_ml)
    for places, mask in _masks(subject, grid):
        parts, _ = ndimage.label(mask, structure=NEIGHBOURHOOD)
        largest_ml = np.bincount(parts.ravel())[1:].max() * subject.voxel_volume_ml
        false[places] = largest_ml >= smallest_ml
    return HealthyOutcome(subject.scan, subject.class_name, subject.fold, false)


def _judge_lesions(subject: ClassOfScan, reference: NDArray[np.bool_], grid: Grid) -> LesionOutcome:
    lesion_ids, count = ndimage.label(reference, structure=NEIGHBOURHOOD)
    lesion_voxels = np.bincount(lesion_ids.ravel())[1:]
    in_band = _in_band(lesion_voxels * np.float64(subject.voxel_volume_ml))
    detected = np.zeros((len(in_band), *grid.shape), dtype=np.int64)
    dice = np.zeros(grid.shape)
    smallest_ml = np.array(grid.min_volume_ml)
    inside = lesion_ids[_box_of(subject)] if subject.levels.any() else lesion_ids
    for places, mask in _masks(subject, grid):
        parts, found = ndimage.label(mask, structure=NEIGHBOURHOOD)
        pairs = parts.astype(np.int64) * (count + 1) + inside
        shared = np.bincount(pairs.ravel(), minlength=(found + 1) * (count + 1))
        shared = shared.reshape(found + 1, count + 1)[1:]  # (components, background and lesions)
        voxels = shared.sum(axis=1)
        kept = (voxels * subject.voxel_volume_ml >= smallest_ml[:, None]).astype(np.int64)
        covered = kept @ shared[:, 1:]  # (volumes, lesions)
        hits = (covered / lesion_voxels >= MIN_OVERLAP).astype(np.int64)
        detected[(slice(None), *places)] = (in_band @ hits.T)[:, None]
        dice[places] = 2 * covered.sum(axis=1) / (kept @ voxels + lesion_voxels.sum())
    return LesionOutcome(
        subject.scan, subject.class_name, subject.fold, in_band.sum(axis=1), detected, dice
    )


def _masks(
    subject: ClassOfScan, grid: Grid
) -> Iterator[tuple[tuple[NDArray[np.intp], int], NDArray[np.bool_]]]:
    """Yield each mask that is not empty, in the box of all of them, and the candidates it is of.

    A place is the indices of the presence thresholds that leave the same slices, and that of the
    probability threshold.
    """
    if not subject.levels.any():
        return
    box = _box_of(subject)
    levels, presence = subject.levels[box], subject.presence[box[0]]
    thresholds = np.array(grid.presence, dtype=np.float32)
    for t in range(len(grid.probability)):
        marked = levels > t
        gates = marked.any(axis=(1, 2)) & (presence >= thresholds[:, None])
        different, which = np.unique(gates, axis=0, return_inverse=True)
        for i, gate in enumerate(different):
            if gate.any():
                yield (np.flatnonzero(which.ravel() == i), t), marked & gate[:, None, None]


def _box_of(subject: ClassOfScan) -> tuple[slice, ...]:
    return bounding_box(subject.levels > 0)


def _in_band(volumes_ml: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (bands, lesions): 1 where a lesion is of the size band."""
    bands = [(lower <= volumes_ml) & (volumes_ml < upper) for lower, upper in SIZE_BANDS_ML]
    return np.stack(bands).astype(np.int64)
