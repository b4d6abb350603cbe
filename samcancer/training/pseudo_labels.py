"""Pseudo labels: each fold's model labels its own held-out patients for their unknown classes.

Step 2 of [SC] section 3. Per voxel of an unknown class, with probability p and the slice's presence
probability q (thresholds from ``pseudo_labels`` of the configuration and from the teacher's
validation):

    p < ignore_above                               background
    p >= lesion_above, q >= presence threshold     lesion
    anything else                                  stays unknown, and is left out of the loss

A teacher labels only what it can tell: a class whose Dice on the teacher's own held-out patients is
below ``min_teacher_dice``, or that none of them holds, stays unknown. A teacher that never
validated is taken at its word.

Confidence of a class in a case: the mean p of its lesion voxels, or without any, 1 minus the
largest q of its slices. A teacher that trained on a patient is refused; a class that a person
annotated is never touched. Cases are written one by one, whole or not at all; a second call goes
on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samcancer.cohort.executor import IN_PROCESS, CaseWork, Executor, RunError, Tell
from samcancer.cohort.part_lock import cohort_lock
from samcancer.cohort.partition import Part
from samcancer.cohort.progress import cohort_progress
from samcancer.cohort.run import run_cases
from samcancer.config import Config, PseudoLabelConfig
from samcancer.data.case_store import CaseStore
from samcancer.data.ledger import PseudoEntry, PseudoLabels, write_pseudo_case
from samcancer.errors import InputError
from samcancer.files import remove_stale_temporaries, require_own_folder
from samcancer.modeling.devices import chosen_device
from samcancer.modeling.slice_prediction import threshold_vector
from samcancer.training.checkpoint import LoadedModel
from samcancer.training.fold_runs import FoldRuns, open_fold_runs
from samcancer.training.run import PSEUDO_LABELS_NAME
from samcancer.training.validate import predict_case

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassSummary:
    """What pseudo labels add to one class."""

    cases: int
    """Cases in which the class was unknown and is labelled now."""
    positive_cases: int
    slices: int
    """With a lesion voxel."""
    volume_ml: float
    ignored_ml: float
    """Left unknown in the cases labelled."""
    withheld_cases: int
    """Cases in which the class stays unknown, since their teacher is not good enough at it."""


@dataclass(frozen=True)
class _CaseLabels:
    label_bits: NDArray[np.uint32]
    known_bits: NDArray[np.uint32]
    confidence: dict[int, float]
    """Class index -> confidence."""


@dataclass(frozen=True)
class PseudoLabelled:
    """What a call did."""

    classes: dict[str, ClassSummary]
    """What the pseudo labels add per class; empty after a part of the cases."""
    failures: dict[str, str]
    """Case id -> one line that says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class _Labelling:
    """What all tasks have in common."""

    store: Path
    runs: Path
    device: str
    threads: int | None
    """Of a worker; None leaves its own number."""

    def setup(self) -> _Teachers:
        """Open the runs, the store and the pseudo labels that are there already."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        folder = self.runs / PSEUDO_LABELS_NAME
        fold_runs = open_fold_runs(self.store, self.runs)
        return _Teachers(fold_runs, PseudoLabels(folder, fold_runs.store), self.device)


@dataclass
class _Teachers:
    """The models of the folds, one loaded at a time, and the labels of an earlier call."""

    runs: FoldRuns
    earlier: PseudoLabels
    device: str
    _loaded: tuple[int, LoadedModel] | None = None

    def of(self, fold: int) -> LoadedModel:
        """Return a fold's model; cases come fold by fold, so that each is loaded once.

        Raises:
            RunError: When the model cannot label the fold's held-out patients.
        """
        if self._loaded is None or self._loaded[0] != fold:
            self._loaded = None  # before the next one takes its memory
            case_ids = _cases_to_label(self.runs.store, self.runs.folds.held_out_cases(fold))
            try:
                model = self.runs.load_model(fold, case_ids, device=chosen_device(self.device))
            except InputError as error:
                raise RunError(error) from None
            self._loaded = (fold, model)
        return self._loaded[1]


def write_pseudo_labels(
    store_folder: Path,
    runs: Path,
    *,
    device: str = "auto",
    executor: Executor = IN_PROCESS,
    part: Part | None = None,
    show_progress: bool = True,
) -> PseudoLabelled:
    """Label the unknown classes of every case; return what was added per class.

    Args:
        store_folder: The case store that the folds were trained on.
        runs: Folder with the fold runs; ``pseudo_labels`` is written into it.
        device: ``auto`` takes a GPU when there is one, in each worker.
        executor: Where the cases are labelled.
        part: The part of the cases to label; None for all.
        show_progress: Draw a progress bar.

    Raises:
        InputError: When a fold's model is missing, is of another store, or trained on the patient
            it would label.
    """
    teachers = open_fold_runs(store_folder, runs)
    store, folds = teachers.store, teachers.folds
    fold_of = {
        case_id: fold
        for fold in range(folds.count)
        for case_id in _cases_to_label(store, folds.held_out_cases(fold))
        if part is None or part.holds(case_id)
    }
    teachers.require_models(sorted(set(fold_of.values())))
    folder = runs / PSEUDO_LABELS_NAME
    labelling = _Labelling(
        store=store_folder,
        runs=runs,
        device=device,
        threads=executor.threads_of_worker(torch.get_num_threads(), cases=len(fold_of)),
    )
    work = CaseWork(
        stage="pseudo-label", setup=labelling.setup, do=_label_and_write, modules=(__name__,)
    )
    failures: dict[str, str] = {}
    require_own_folder(folder)
    with (
        cohort_lock(folder, purpose="pseudo labels", part=part),
        cohort_progress(len(fold_of), show=show_progress, steps="slices") as progress,
    ):
        if part is None:
            remove_stale_temporaries(folder)
        for outcome in run_cases(
            work,
            fold_of,
            executor=executor,
            on_case=progress.on_case,
            on_steps=progress.on_steps,
        ):
            if outcome.error is not None:
                failures[outcome.case_id] = str(outcome.error)
            progress.on_done(outcome.case_id)
        if part is not None:
            return PseudoLabelled({}, failures)
        remove_stale_temporaries(folder)  # of a worker that died
    return PseudoLabelled(
        summarise_pseudo_labels(store, PseudoLabels(folder, store)), dict(sorted(failures.items()))
    )


def summarise_pseudo_labels(store: CaseStore, pseudo: PseudoLabels) -> dict[str, ClassSummary]:
    """Return, per class of the store, what the pseudo labels add."""
    totals = {name: np.zeros(5) for name in store.class_names}
    unknown = dict.fromkeys(store.class_names, 0)
    for case_id in store.cases:
        for k in _unknown_classes(store, case_id):
            unknown[store.class_names[k]] += 1
    for case_id in pseudo.case_ids:
        info = store.cases[case_id]
        labels = pseudo.label_bits(case_id, 0, info.slices)
        known = pseudo.known_bits(case_id, 0, info.slices)
        voxel_ml = math.prod(info.voxel_mm) / 1000
        for entry in pseudo.entries(case_id):
            bit = np.uint32(1 << store.class_names.index(entry.class_name))
            lesion = (labels & bit) > 0
            positive = lesion.any(axis=(1, 2))
            ignored = int(((known & bit) == 0).sum())
            totals[entry.class_name] += np.array(
                [
                    1,
                    positive.any(),
                    positive.sum(),
                    lesion.sum() * voxel_ml,
                    ignored * voxel_ml,
                ],
                dtype=np.float64,
            )
    return {
        name: ClassSummary(
            int(t[0]), int(t[1]), int(t[2]), float(t[3]), float(t[4]), unknown[name] - int(t[0])
        )
        for name, t in totals.items()
    }


def trusted_classes(teacher: LoadedModel) -> list[str]:
    """Return the classes that a teacher is good enough at to label them."""
    minimum = teacher.config.pseudo_labels.min_teacher_dice
    if not minimum or not teacher.meta["metrics"]:
        return list(teacher.class_names)
    dice = {name: result["dice"] for name, result in teacher.meta["metrics"]["classes"].items()}
    return [n for n in teacher.class_names if dice[n] is not None and dice[n] >= minimum]


def label_voxels(
    probability: NDArray[np.float32],
    present: NDArray[np.bool_],
    config: PseudoLabelConfig,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which voxels of one class are lesion, and which are decided.

    Args:
        probability: (Z, S, S).
        present: (Z,) whether the slice's presence probability reaches the threshold.
        config: The two thresholds.
    """
    background = probability < config.ignore_above
    lesion = (probability >= config.lesion_above) & present[:, None, None] & ~background
    return lesion, lesion | background


def _cases_to_label(store: CaseStore, case_ids: Sequence[str]) -> list[str]:
    """Return the cases with at least one class that nobody annotated."""
    return [case_id for case_id in case_ids if _unknown_classes(store, case_id)]


def _unknown_classes(store: CaseStore, case_id: str) -> list[int]:
    annotated = store.annotated_bits(case_id)
    return [k for k in range(len(store.class_names)) if not annotated >> k & 1]


def _label_and_write(teachers: _Teachers, case_id: str, fold: int, tell: Tell) -> None:
    """Label a case by its fold's model, unless that has done so already."""
    teacher, store = teachers.of(fold), teachers.runs.store
    path = teachers.earlier.folder / f"{case_id}.h5"
    trusted = {store.class_names.index(name) for name in trusted_classes(teacher)}
    classes = [k for k in _unknown_classes(store, case_id) if k in trusted]
    origin = {(e.class_name, e.checkpoint_sha256) for e in teachers.earlier.entries(case_id)}
    if origin == {(store.class_names[k], teacher.sha256) for k in classes}:
        return
    if not classes:
        path.unlink(missing_ok=True)  # of an earlier teacher
        return
    labels = _label_case(teacher, store, case_id, classes)
    entries = [
        PseudoEntry(store.class_names[k], fold, teacher.sha256, confidence)
        for k, confidence in labels.confidence.items()
    ]
    write_pseudo_case(
        path,
        case_id=case_id,
        label_bits=labels.label_bits,
        known_bits=labels.known_bits,
        entries=entries,
    )
    tell(store.cases[case_id].slices)


def _label_case(
    teacher: LoadedModel, store: CaseStore, case_id: str, classes: Sequence[int]
) -> _CaseLabels:
    config: Config = teacher.config
    info = store.cases[case_id]
    thresholds = threshold_vector(teacher.presence_thresholds, store.class_names).numpy()
    shape = (info.slices, info.size, info.size)
    label_bits, known_bits = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
    summed, counts = np.zeros(len(thresholds)), np.zeros(len(thresholds), np.int64)
    largest_presence = np.zeros(len(thresholds))
    device = next(teacher.model.parameters()).device
    for chunk in predict_case(teacher.model, store, case_id, config=config, device=device):
        rows = slice(chunk.start, chunk.start + len(chunk.logits))
        probability = torch.sigmoid(chunk.logits).cpu().numpy()
        presence = chunk.presence.cpu().numpy()
        largest_presence = np.maximum(largest_presence, presence.max(axis=0))
        for k in classes:
            lesion, decided = label_voxels(
                probability[:, k], presence[:, k] >= thresholds[k], config.pseudo_labels
            )
            label_bits[rows] |= lesion.astype(np.uint32) << np.uint32(k)
            known_bits[rows] |= decided.astype(np.uint32) << np.uint32(k)
            summed[k] += float(probability[:, k][lesion].sum(dtype=np.float64))
            counts[k] += int(lesion.sum())
    confidence = {
        k: summed[k] / counts[k] if counts[k] else 1.0 - largest_presence[k] for k in classes
    }
    return _CaseLabels(label_bits, known_bits, {k: float(v) for k, v in confidence.items()})
