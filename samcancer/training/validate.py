"""Whole-volume validation on held-out cases, empty slices included, and presence thresholds.

A case counts for a class only where a person annotated the class. Volume Dice is taken over the
cases that hold the class; a case without it is *healthy*: correct when nothing is predicted, a
false positive otherwise, and counted apart (a Dice of 1 or 0 for it would drown the others).
Masks are compared on the stack grid; evaluation on the scan's own grid is samcancer.evaluation.

A slice keeps a class only from the class's presence threshold on. The threshold is the candidate
that maximises volume Dice times (1 + share of healthy cases that stay clean) / 2, so that false
positives cost up to half of the Dice and "nothing anywhere", which no healthy case objects to, is
worth nothing. Ties go to the cleaner, then to the one nearest 0.5. Without a slice that shows the
class, or without one that does not, there is nothing to calibrate and it is 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT, Config
from samcancer.data.case_store import CaseStore
from samcancer.data.dataset import unpack_bits
from samcancer.modeling.chunks import SliceSource
from samcancer.modeling.predict import predict_slices
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import SlicePrediction
from samcancer.training.devices import gathered, in_order

DEFAULT_THRESHOLD = 0.5

THRESHOLD_CANDIDATES = tuple(round(0.05 * i, 2) for i in range(1, 20))


class Validation(Protocol):
    """What a run keeps of a validation, of whatever kind of network."""

    @property
    def score(self) -> float:
        """What selects the best network; higher is better."""

    @property
    def presence_thresholds(self) -> dict[str, float]:
        """Class -> calibrated threshold."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""


@dataclass(frozen=True)
class CaseCounts:
    """Voxel counts per slice and class of one case; arrays (Z, K)."""

    case_id: str
    annotated: NDArray[np.bool_]
    """(K,) classes that a person annotated."""
    presence: NDArray[np.float64]
    """Presence probabilities."""
    predicted: NDArray[np.int64]
    """Voxels above probability 0.5, not gated by presence."""
    reference: NDArray[np.int64]
    overlap: NDArray[np.int64]


@dataclass(frozen=True)
class ClassResult:
    """Validation of one class."""

    threshold: float
    dice: float | None
    """Mean volume Dice over the cases that hold the class; None without any."""
    cases: int
    healthy_cases: int
    healthy_correct: int

    @property
    def false_positives(self) -> int:
        """Healthy cases with a predicted voxel."""
        return self.healthy_cases - self.healthy_correct

    @property
    def clean_share(self) -> float:
        """Share of the healthy cases without a predicted voxel; 1 without healthy cases."""
        return self.healthy_correct / self.healthy_cases if self.healthy_cases else 1.0

    def worth(self) -> tuple[float, float]:
        """Return Dice discounted by false positives, and the share of clean healthy cases."""
        dice = 1.0 if self.dice is None else self.dice
        return dice * (1 + self.clean_share) / 2, self.clean_share


@dataclass(frozen=True)
class ValidationResult:
    """Validation of a network."""

    classes: dict[str, ClassResult]

    @property
    def score(self) -> float:
        """What selects the best network: the mean over classes of their mean volume Dice.

        Where no held-out case holds any class it is the mean share of clean healthy cases.
        """
        dice = [r.dice for r in self.classes.values() if r.dice is not None]
        if dice:
            return sum(dice) / len(dice)
        seen = [r.clean_share for r in self.classes.values() if r.healthy_cases]
        return sum(seen) / len(seen) if seen else 0.0

    @property
    def presence_thresholds(self) -> dict[str, float]:
        """Class -> calibrated threshold."""
        return {name: result.threshold for name, result in self.classes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        classes = {
            name: {
                "dice": result.dice,
                "cases": result.cases,
                "healthy_cases": result.healthy_cases,
                "healthy_correct": result.healthy_correct,
                "false_positives": result.false_positives,
                "presence_threshold": result.threshold,
            }
            for name, result in self.classes.items()
        }
        return {"score": self.score, "classes": classes}


class PaddedSlices:
    """The padded slices of a stored case, read a few at a time."""

    def __init__(self, store: CaseStore, case_id: str) -> None:
        """Bind the case; nothing is read yet."""
        self._store, self._case_id = store, case_id
        case = store.cases[case_id]
        self.shape: tuple[int, ...] = (case.slices + 2 * SLICE_CONTEXT, case.size, case.size)

    def __getitem__(self, index: slice) -> NDArray[np.int16]:
        """Return the padded slices of a contiguous range."""
        start, stop, _ = index.indices(self.shape[0])
        padded: NDArray[np.int16] = self._store.slices_hu(self._case_id, start, stop)
        return padded


def validate(
    model: nn.Module,
    store: CaseStore,
    *,
    case_ids: Sequence[str],
    config: Config,
    fabric: Fabric,
) -> ValidationResult:
    """Run the network over held-out cases, shared out over the processes, and score it.

    Args:
        model: The network itself, not Fabric's wrapper of it.
        store: With people's labels; pseudo labels are no reference.
        case_ids: Cases, each with at least one annotated class.
        config: Window, precision and, as slices per chunk or patches at once, the batch size.
        fabric: Launched.
    """
    counts = [
        count_case(model, store, case_id, config=config, device=fabric.device)
        for case_id in case_ids[fabric.global_rank :: fabric.world_size]
    ]
    return summarise(in_order(gathered(fabric, counts)), store.class_names)


def count_case(
    model: nn.Module, store: CaseStore, case_id: str, *, config: Config, device: torch.device
) -> CaseCounts:
    """Run the network over a case and count voxels per slice and class."""
    counter = CaseCounter(store, case_id)
    for piece in predict_case(model, store, case_id, config=config, device=device):
        stop = piece.start + len(piece.logits)
        counter.add(piece, reference_masks(store, case_id, piece.start, stop, device=device))
    return counter.counts()


def predict_case(
    model: nn.Module, store: CaseStore, case_id: str, *, config: Config, device: torch.device
) -> Iterator[SlicePrediction]:
    """Yield what the network says about a stored case, not gated by presence."""
    voxel_mm = store.cases[case_id].voxel_mm
    padded = PaddedSlices(store, case_id)
    return predict_padded(model, padded, voxel_mm=voxel_mm, config=config, device=device)


def predict_padded(
    model: nn.Module,
    slices_hu: SliceSource,
    *,
    voxel_mm: tuple[float, float, float],
    config: Config,
    device: torch.device,
) -> Iterator[SlicePrediction]:
    """Yield what the network says about padded slices (Z + 4, S, S), not gated by presence."""
    batch = config.train.batch_size
    return predict_slices(
        model,
        slices_hu,
        window_hu=config.data.inference_window_hu,
        options=PredictOptions(
            batch=batch,
            patches_at_once=batch,
            voxel_mm=voxel_mm,
            device=device,
            precision=config.train.precision,
        ),
    )


def reference_masks(
    store: CaseStore, case_id: str, start: int, stop: int, *, device: torch.device
) -> Tensor:
    """Return what people labelled in a range of slices, (n, K, S, S) bool."""
    bits = store.label_bits(case_id, start, stop).astype(np.int64)
    return unpack_bits(torch.from_numpy(bits)[None].to(device), len(store.class_names))[0] > 0


class CaseCounter:
    """Counts of one case, gathered from a stream of predictions piece by piece."""

    def __init__(self, store: CaseStore, case_id: str) -> None:
        """Begin with nothing."""
        shape = (store.cases[case_id].slices, len(store.class_names))
        self._presence = np.zeros(shape)
        self._voxels = np.zeros((3, *shape), dtype=np.int64)
        bit_field = store.annotated_bits(case_id)
        self._annotated = np.array([bool(bit_field >> k & 1) for k in range(shape[1])])
        self._case_id = case_id

    def add(self, piece: SlicePrediction, reference: Tensor) -> None:
        """Count a piece against its :func:`reference_masks`."""
        rows = slice(piece.start, piece.start + len(piece.logits))
        predicted = piece.logits > 0
        for i, mask in enumerate((predicted, reference, predicted & reference)):
            self._voxels[i, rows] = mask.sum(dim=(-2, -1)).cpu().numpy()
        self._presence[rows] = piece.presence.double().cpu().numpy()

    def counts(self) -> CaseCounts:
        """Return what was counted."""
        return CaseCounts(self._case_id, self._annotated, self._presence, *self._voxels)


def summarise(cases: Sequence[CaseCounts], class_names: Sequence[str]) -> ValidationResult:
    """Calibrate the presence thresholds and score every class."""
    return ValidationResult(
        {
            name: _calibrated([case for case in cases if case.annotated[k]], k)
            for k, name in enumerate(class_names)
        }
    )


def _calibrated(cases: Sequence[CaseCounts], k: int) -> ClassResult:
    shows = [case.reference[:, k] > 0 for case in cases]
    if not any(s.any() for s in shows) or all(s.all() for s in shows):
        return _score_class(cases, k, DEFAULT_THRESHOLD)
    candidates = sorted(THRESHOLD_CANDIDATES, key=lambda t: abs(t - DEFAULT_THRESHOLD))
    results = [_score_class(cases, k, threshold) for threshold in candidates]
    return max(results, key=ClassResult.worth)


def _score_class(cases: Sequence[CaseCounts], k: int, threshold: float) -> ClassResult:
    dice, healthy, clean = [], 0, 0
    for case in cases:
        kept = case.presence[:, k] >= threshold
        predicted = int(case.predicted[kept, k].sum())
        reference = int(case.reference[:, k].sum())
        if reference:
            overlap = int(case.overlap[kept, k].sum())
            dice.append(2 * overlap / (predicted + reference))
        else:
            healthy += 1
            clean += predicted == 0
    mean = sum(dice) / len(dice) if dice else None
    return ClassResult(threshold, mean, len(dice), healthy, clean)
