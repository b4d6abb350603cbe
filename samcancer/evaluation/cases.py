"""Score the predictions of many cases, each class of each case apart.

References are matched to predictions by case id, in whatever formats; the grids must be the same,
nothing is ever resampled. A case whose files cannot be read, or whose grids differ, is a failure:
it is listed and left out of the means. A missing prediction scores 0.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.evaluation.labels import (
    MERGED_CLASS,
    Annotations,
    LabelValues,
    class_kinds,
    prediction_labels,
)
from samcancer.evaluation.lesions import Lesion, count_components, find_lesions
from samcancer.evaluation.protocols import (
    Counts,
    Protocol,
    Score,
    count_voxels,
    failed_score,
    score_masks,
)
from samcancer.geometry import require_same_grid
from samcancer.taxonomy import Kind
from samcancer.volume_io import LabelVolume, find_volumes, read_labels, strip_volume_suffix

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
    """Values that the prediction may hold; None is FLARE's rule: a value over 1 scores 0."""
    protocol: Protocol
    tolerance_mm: float


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
    unverified_lesions: int = 0

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


@dataclass(frozen=True)
class Evaluated:
    """Every result, and what could not be scored."""

    results: tuple[ClassResult, ...]
    missing: tuple[str, ...]
    failures: dict[str, str]
    extra: tuple[str, ...]
    """Predictions that have no reference."""


def plan(
    reference: Path,
    prediction: Path,
    *,
    labels: LabelValues,
    annotations: Annotations,
    protocol: Protocol,
    tolerance_mm: float,
    merge: bool = False,
) -> tuple[list[CaseTask], tuple[str, ...]]:
    """Match references to predictions; return the tasks and the predictions without a reference.

    Args:
        reference: Folder of label maps.
        prediction: Folder of label maps.
        labels: Classes of the references.
        annotations: What each case annotates.
        protocol: Which rules.
        tolerance_mm: Of the surface Dice.
        merge: Score all lesion classes as one.

    Raises:
        InputError: When a folder is missing or holds no volume, or two files are the same case.
    """
    references, predictions = _by_case(reference), _by_case(prediction)
    if protocol == "flare24" and not merge and set(labels.values()) != {(1,)}:
        raise InputError(
            f"flare24 scores one lesion class of value 1, the references have {dict(labels)}",
            path=reference,
            mend="use --merge-lesions to score all lesions as one",
        )
    binary = protocol == "flare24" and not merge
    tasks = []
    for case_id, path in references.items():
        found = predictions.get(case_id)
        own = labels if binary else _own_labels(found, case_id, labels)
        annotated = annotations.of(case_id, frozenset(labels))
        tasks.append(
            CaseTask(
                case_id=case_id,
                reference=path,
                prediction=found,
                classes=(_merged if merge else _separate)(labels, own, annotated),
                reference_values=_union(labels, labels),
                prediction_values=None if binary else _union(own, own),
                protocol=protocol,
                tolerance_mm=tolerance_mm,
            )
        )
    return tasks, tuple(sorted(set(predictions) - set(references)))


def evaluate_cases(
    tasks: Sequence[CaseTask],
    *,
    extra: tuple[str, ...] = (),
    workers: int = 1,
    on_case: Callable[[str], None] = lambda _: None,
) -> Evaluated:
    """Score every case; the order of the results is that of the tasks, whatever the workers."""
    results: list[ClassResult] = []
    failures: dict[str, str] = {}
    for task, outcome in zip(tasks, _outcomes(tasks, workers), strict=True):
        if isinstance(outcome, str):
            failures[task.case_id] = outcome
        else:
            results.extend(outcome)
        on_case(task.case_id)
    missing = tuple(task.case_id for task in tasks if task.prediction is None)
    return Evaluated(tuple(results), missing, failures, extra)


def evaluate_case(task: CaseTask) -> list[ClassResult]:
    """Score one case.

    Raises:
        InputError: When a file cannot be used or the grids differ.
    """
    reference = read_labels(task.reference)
    _require_known(reference, task.reference_values)
    if task.prediction is None:
        values = np.zeros_like(reference.values)
        return [_class_result(task, c, reference, values, missing=True) for c in task.classes]
    prediction = read_labels(task.prediction)
    require_same_grid(
        reference.geometry,
        prediction.geometry,
        image_path=task.reference,
        label_path=task.prediction,
    )
    if task.prediction_values is not None:
        _require_known(prediction, task.prediction_values)
    return [
        _class_result(task, c, reference, prediction.values, missing=False) for c in task.classes
    ]


def _outcomes(tasks: Sequence[CaseTask], workers: int) -> Iterator[list[ClassResult] | str]:
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_outcome, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        try:
            yield from pool.map(_outcome, tasks)
        except BrokenProcessPool:
            raise InputError(
                "a worker process died, most likely for lack of memory", mend="use fewer --workers"
            ) from None


def _outcome(task: CaseTask) -> list[ClassResult] | str:
    try:
        return evaluate_case(task)
    except InputError as error:
        return str(error)


def _own_labels(prediction: Path | None, case_id: str, labels: LabelValues) -> LabelValues:
    """Return the classes of a prediction; refuse a model that shares none with the references."""
    if prediction is None:
        return labels
    own = prediction_labels(prediction, case_id, default=labels)
    if not set(own) & set(labels):
        raise InputError(
            f"predicts {', '.join(own)}, the references name {', '.join(labels)}",
            path=prediction,
            mend="name the references' classes as the model does, with --labels",
        )
    return own


def _by_case(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError("no such folder", path=folder, mend="name a folder of masks")
    found: dict[str, Path] = {}
    for path in find_volumes(folder):
        case_id = strip_volume_suffix(path)
        if case_id in found:
            raise InputError(
                f"is the same case as {found[case_id].name}", path=path, mend="remove one of them"
            )
        found[case_id] = path
    return found


def _separate(
    labels: LabelValues, own: LabelValues, annotated: frozenset[str]
) -> tuple[ClassTask, ...]:
    names = dict.fromkeys((*labels, *own))
    kinds = class_kinds(frozenset(names))
    return tuple(
        ClassTask(
            name=name,
            kind=kinds[name],
            annotated=name in annotated,
            reference=tuple(labels.get(name, ())),
            prediction=tuple(own.get(name, ())) if name in annotated else (),
            unverified=() if name in annotated else tuple(own.get(name, ())),
        )
        for name in names
    )


def _merged(
    labels: LabelValues, own: LabelValues, annotated: frozenset[str]
) -> tuple[ClassTask, ...]:
    """Return one class: the union of all annotated lesion classes; organs are not looked at."""
    kinds = class_kinds(frozenset((*labels, *own)))
    judged = [n for n in kinds if kinds[n] == "lesion" and n in annotated]
    unjudged = [n for n in own if kinds[n] == "lesion" and n not in annotated]
    return (
        ClassTask(
            name=MERGED_CLASS,
            kind="lesion",
            annotated=bool(judged),
            reference=tuple(_union(labels, judged)),
            prediction=tuple(_union(own, judged)),
            unverified=tuple(_union(own, unjudged)),
        ),
    )


def _union(labels: LabelValues, names: Iterable[str]) -> frozenset[int]:
    return frozenset(value for name in names for value in labels.get(name, ()))


def _require_known(volume: LabelVolume, known: frozenset[int]) -> None:
    values, counts = np.unique(volume.values, return_counts=True)
    unknown = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v and v not in known}
    if unknown:
        text = ", ".join(f"{value} ({count} voxels)" for value, count in unknown.items())
        raise InputError(
            f"has label values without a class: {text}; known are {sorted(known)}",
            path=volume.path,
            mend="name them with --labels",
        )


def _class_result(
    task: CaseTask,
    wanted: ClassTask,
    reference: LabelVolume,
    predicted_values: NDArray[np.integer],
    *,
    missing: bool,
) -> ClassResult:
    voxel_volume_ml = reference.geometry.voxel_volume_ml
    predicted = _mask(predicted_values, wanted.prediction)
    unverified = _mask(predicted_values, wanted.unverified)
    actual = _mask(reference.values, wanted.reference if wanted.annotated else ())
    is_lesion = wanted.kind == "lesion"
    lesions = find_lesions(actual, predicted, voxel_volume_ml=voxel_volume_ml) if is_lesion else []
    return ClassResult(
        case_id=task.case_id,
        class_name=wanted.name,
        kind=wanted.kind,
        annotated=wanted.annotated,
        missing=missing,
        score=_score(task, wanted, actual, predicted, predicted_values, reference, missing),
        counts=count_voxels(actual, predicted),
        voxel_volume_ml=voxel_volume_ml,
        lesions=tuple(lesions),
        unverified_voxels=int(np.count_nonzero(unverified)),
        unverified_lesions=count_components(unverified) if is_lesion else 0,
    )


def _score(
    task: CaseTask,
    wanted: ClassTask,
    actual: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    predicted_values: NDArray[np.integer],
    reference: LabelVolume,
    missing: bool,
) -> Score:
    if not wanted.annotated:
        return _NAN_SCORE
    if missing or (task.prediction_values is None and (predicted_values > 1).any()):
        return failed_score()
    return score_masks(
        actual,
        predicted,
        spacing_mm=reference.geometry.spacing_mm[::-1],
        protocol=task.protocol,
        tolerance_mm=task.tolerance_mm,
    )


def _mask(values: NDArray[np.integer], wanted: tuple[int, ...]) -> NDArray[np.bool_]:
    if len(wanted) == 1:
        return np.asarray(values == wanted[0])
    return np.isin(values, wanted)
