"""Score one case: every class of it, each inside the box that holds its two masks.

A box gives the same figures as the whole volume: voxels outside it belong to neither mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.evaluation.boxes import Box, join_boxes, union_box, value_boxes
from samcancer.evaluation.lesions import Lesion, count_components, find_lesions
from samcancer.evaluation.protocols import (
    ClassRules,
    Counts,
    Protocol,
    Score,
    count_voxels,
    failed_score,
    score_masks,
)
from samcancer.geometry import require_same_grid
from samcancer.taxonomy import Kind
from samcancer.volume_io import LabelVolume, read_labels

_NAN_SCORE = Score(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class ClassTask:
    """One class to score in one case, as the label values that make it up."""

    name: str
    kind: Kind
    annotated: bool
    """Whether the case annotates it (or, when merged, any part of it)."""
    reference: tuple[int, ...]
    prediction: tuple[int, ...]
    """Values that are scored."""
    unverified: tuple[int, ...]
    """Values of the prediction that the case's annotation cannot judge."""
    rules: ClassRules
    """How its surfaces are compared."""
    whole: bool
    """Whether the case annotates all of it; of a merged class it may annotate a part."""


@dataclass(frozen=True, kw_only=True)
class CaseTask:
    """One case to score."""

    case_id: str
    reference: Path
    prediction: Path | None
    classes: tuple[ClassTask, ...]
    reference_values: frozenset[int]
    """Values that the reference may hold."""
    prediction_values: frozenset[int] | None
    """Values that the prediction may hold; None is FLARE24's rule: a value over 1 scores 0."""
    protocol: Protocol


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class of one case."""

    case_id: str
    class_name: str
    kind: Kind
    annotated: bool
    missing: bool
    """Whether the case has no prediction."""
    score: Score
    """NaN where the case does not annotate the class."""
    counts: Counts
    voxel_volume_ml: float
    lesions: tuple[Lesion, ...] = ()
    unverified_voxels: int = 0
    unverified_in_reference: int = 0
    """Those of them that lie in the class's reference: a merged class annotated in part."""
    unverified_lesions: int = 0
    whole: bool = True
    """Whether the case annotates all of the class."""

    @property
    def reference_ml(self) -> float:
        """Volume of the reference."""
        return self.counts.reference * self.voxel_volume_ml

    @property
    def prediction_ml(self) -> float:
        """Volume of the prediction, unverified voxels not included."""
        return self.counts.prediction * self.voxel_volume_ml

    @property
    def unverified_ml(self) -> float:
        """Volume predicted of what the case does not annotate."""
        return self.unverified_voxels * self.voxel_volume_ml


def score_case(task: CaseTask) -> list[ClassResult]:
    """Score one case.

    Raises:
        InputError: When a file cannot be used or the grids differ.
    """
    reference = read_labels(task.reference)
    reference_boxes = value_boxes(reference.values)
    _require_known(reference, reference_boxes, task.reference_values)
    if task.prediction is None:
        # A stand-in of one voxel's memory: no value of it is ever looked up.
        absent = np.broadcast_to(np.zeros((), np.uint8), reference.values.shape)
        case = _Case(task, reference, reference_boxes, absent, {})
        return [_class_result(case, wanted) for wanted in task.classes]
    prediction = read_labels(task.prediction)
    require_same_grid(
        reference.geometry,
        prediction.geometry,
        image_path=task.reference,
        label_path=task.prediction,
    )
    prediction_boxes = value_boxes(prediction.values)
    if task.prediction_values is not None:
        _require_known(prediction, prediction_boxes, task.prediction_values)
    case = _Case(task, reference, reference_boxes, prediction.values, prediction_boxes)
    return [_class_result(case, wanted) for wanted in task.classes]


@dataclass(frozen=True)
class _Case:
    """Both label maps of a case and where their values lie."""

    task: CaseTask
    reference: LabelVolume
    reference_boxes: dict[int, Box]
    predicted: NDArray[Any]
    predicted_boxes: dict[int, Box]


def _require_known(volume: LabelVolume, boxes: dict[int, Box], known: frozenset[int]) -> None:
    unknown = {
        value: int(np.count_nonzero(volume.values[box] == value))
        for value, box in boxes.items()
        if value not in known
    }
    if unknown:
        text = ", ".join(f"{value} ({count} voxels)" for value, count in unknown.items())
        raise InputError(
            f"has label values without a class: {text}; known are {sorted(known)}",
            path=volume.path,
            mend="name them with --labels",
        )


def _class_result(case: _Case, wanted: ClassTask) -> ClassResult:
    scored = wanted.reference if wanted.annotated else ()
    box = join_boxes(
        (
            union_box(case.reference_boxes, scored),
            union_box(case.predicted_boxes, (*wanted.prediction, *wanted.unverified)),
        )
    )
    voxel_volume_ml = case.reference.geometry.voxel_volume_ml
    actual = _mask(case.reference.values[box], scored)
    predicted = _mask(case.predicted[box], wanted.prediction)
    unverified = _mask(case.predicted[box], wanted.unverified)
    is_lesion = wanted.kind == "lesion"
    start = (box[0].start, box[1].start, box[2].start)
    lesions = (
        find_lesions(actual, predicted, voxel_volume_ml=voxel_volume_ml, start=start)
        if is_lesion
        else []
    )
    return ClassResult(
        case_id=case.task.case_id,
        class_name=wanted.name,
        kind=wanted.kind,
        annotated=wanted.annotated,
        missing=case.task.prediction is None,
        score=_score(case, wanted, actual, predicted),
        counts=count_voxels(actual, predicted, of=case.reference.values.size),
        voxel_volume_ml=voxel_volume_ml,
        lesions=tuple(lesions),
        unverified_voxels=int(np.count_nonzero(unverified)),
        unverified_in_reference=int(np.count_nonzero(unverified & actual)),
        unverified_lesions=count_components(unverified) if is_lesion else 0,
        whole=wanted.whole,
    )


def _score(
    case: _Case, wanted: ClassTask, actual: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> Score:
    task = case.task
    if not wanted.annotated:
        return _NAN_SCORE
    forbidden = task.prediction_values is None and any(v > 1 for v in case.predicted_boxes)
    if task.prediction is None or forbidden:
        return failed_score()
    return score_masks(
        actual,
        predicted,
        spacing_mm=case.reference.geometry.spacing_mm[::-1],
        protocol=task.protocol,
        tolerance_mm=wanted.rules.tolerance_mm,
        labelled_slices_only=wanted.rules.labelled_slices_only,
    )


def _mask(values: NDArray[Any], wanted: tuple[int, ...]) -> NDArray[np.bool_]:
    if len(wanted) == 1:
        return np.asarray(values == wanted[0])
    return np.isin(values, wanted)
