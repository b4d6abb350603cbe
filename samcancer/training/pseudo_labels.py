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

from samcancer.config import Config, PseudoLabelConfig
from samcancer.data.case_store import CaseStore
from samcancer.data.ledger import PseudoEntry, PseudoLabels, write_pseudo_case
from samcancer.files import folder_lock, remove_stale_temporaries, require_own_folder
from samcancer.modeling.devices import chosen_device
from samcancer.modeling.slice_prediction import threshold_vector
from samcancer.training.checkpoint import LoadedModel
from samcancer.training.fold_runs import open_fold_runs
from samcancer.training.progress import tracked
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


def write_pseudo_labels(
    store_folder: Path, runs: Path, *, device: str = "auto", show_progress: bool = True
) -> dict[str, ClassSummary]:
    """Label the unknown classes of every case; return what was added per class.

    Args:
        store_folder: The case store that the folds were trained on.
        runs: Folder with the fold runs; ``pseudo_labels`` is written into it.
        device: ``auto`` takes a GPU when there is one.
        show_progress: Draw a progress bar.

    Raises:
        InputError: When a fold's model is missing, is of another store, or trained on the patient
            it would label.
    """
    teachers = open_fold_runs(store_folder, runs)
    store, folds = teachers.store, teachers.folds
    work = {fold: _cases_to_label(store, folds.held_out_cases(fold)) for fold in range(folds.count)}
    teachers.require_models([fold for fold, cases in work.items() if cases])
    folder = runs / PSEUDO_LABELS_NAME
    require_own_folder(folder)
    with folder_lock(folder, purpose="pseudo labels"):
        remove_stale_temporaries(folder)
        for fold, case_ids in work.items():
            if case_ids:
                teacher = teachers.load_model(fold, case_ids, device=chosen_device(device))
                _label_fold(teacher, fold, store, folder, case_ids, show_progress=show_progress)
    return summarise_pseudo_labels(store, PseudoLabels(folder, store))


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


def _label_fold(
    teacher: LoadedModel,
    fold: int,
    store: CaseStore,
    folder: Path,
    case_ids: Sequence[str],
    *,
    show_progress: bool,
) -> None:
    pseudo = PseudoLabels(folder, store)
    trusted = {store.class_names.index(name) for name in trusted_classes(teacher)}
    for case_id in tracked(case_ids, f"fold {fold}: pseudo labels", enabled=show_progress):
        path = folder / f"{case_id}.h5"
        classes = [k for k in _unknown_classes(store, case_id) if k in trusted]
        origin = {(e.class_name, e.checkpoint_sha256) for e in pseudo.entries(case_id)}
        if origin == {(store.class_names[k], teacher.sha256) for k in classes}:
            continue
        if not classes:
            path.unlink()  # of an earlier teacher
            continue
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
