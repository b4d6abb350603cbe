"""Patient cards: which slices are shown, and their pictures with outlines, names and misses.

A lesion of the reference counts as missed, and one of a prediction as false, by the rule of the
tables (samcancer.evaluation.lesions): the other side's mask of the same class covers too little of
it, over the whole scan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samcancer.evaluation.lesions import MIN_OVERLAP
from samcancer.geometry import Geometry
from samcancer.report.overlay import (
    Mark,
    Mask,
    SlicePicture,
    body_box,
    focus_box,
    image_symbol,
    panel,
)
from samcancer.report.page import Panel, View
from samcancer.taxonomy import ClassSpec

_NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
_MIN_DISTANCE_MM = 10.0
"""Slices nearer than this to one already shown add nothing."""
_MAX_MARKS = 6
"""Words on one picture; the largest regions get them."""


@dataclass(frozen=True)
class CaseVolumes:
    """One patient in canonical orientation; every array is (slice, row, column)."""

    case_id: str
    hu: npt.NDArray[np.int16]
    geometry: Geometry
    reference: npt.NDArray[np.uint8]
    """0 background, k + 1 the k-th class."""
    predictions: Mapping[str, npt.NDArray[np.uint8]]
    """Arm -> labels as in the reference."""


@dataclass(frozen=True)
class ChosenSlice:
    """A slice to show and why."""

    z: int
    reason: str
    label: int | None
    """Label that the choice was made for; decides the window. None on healthy slices."""


def choose_slices(case: CaseVolumes, *, limit: int = 3) -> list[ChosenSlice]:
    """Return the slices of a case that tell most, in the order of their position.

    The largest reference lesion area, the largest predicted area, the largest false area; on a case
    without any, the middle slice.
    """
    shown: list[ChosenSlice] = []
    predicted = list(case.predictions.values())
    _add(shown, case, [case.reference], "largest reference lesion")
    _add(shown, case, predicted, "largest prediction")
    false = [np.where(case.reference == 0, labels, 0) for labels in predicted]
    _add(shown, case, false, "largest false area")
    for label in np.unique(case.reference)[::-1]:
        if label:
            only = np.where(case.reference == label, case.reference, 0)
            _add(shown, case, [only], "largest lesion of its kind")
    if not shown:
        shown.append(ChosenSlice(len(case.hu) // 2, "middle slice, healthy", None))
    return sorted(shown[:limit], key=lambda chosen: chosen.z)


def build_views(
    case: CaseVolumes,
    *,
    classes: Sequence[ClassSpec],
    captions: Mapping[str, str],
    prefix: str,
) -> tuple[View, ...]:
    """Draw the chosen slices of one case with every arm's prediction.

    Args:
        case: The volumes.
        classes: Of the labels 1, 2, ...
        captions: Arm -> words under its picture, such as its DSC.
        prefix: Start of the identifiers of this case's images; unique on the page.
    """
    missed = {arm: _unmatched(case.reference, labels) for arm, labels in case.predictions.items()}
    false = {arm: _unmatched(labels, case.reference) for arm, labels in case.predictions.items()}
    views = []
    for chosen in choose_slices(case):
        picture = _picture(case, chosen, classes)
        identifier = f"{prefix}-{chosen.z}"
        where = _position(case, chosen, picture)
        panels = tuple(
            Panel(
                title=arm,
                slice_svg=panel(
                    picture,
                    identifier,
                    reference=_masks(case.reference[chosen.z], classes),
                    prediction=_masks(labels[chosen.z], classes),
                    marks=_marks(
                        case.reference[chosen.z],
                        missed[arm][chosen.z],
                        false[arm][chosen.z],
                        classes,
                    ),
                    description=f"{case.case_id}, {arm}, {where}",
                ),
                caption=captions.get(arm, ""),
            )
            for arm, labels in case.predictions.items()
        )
        views.append(View(where, image_symbol(picture, identifier), panels))
    return tuple(views)


def _add(
    shown: list[ChosenSlice],
    case: CaseVolumes,
    volumes: Sequence[npt.NDArray[np.uint8]],
    reason: str,
) -> None:
    """Append the slice with the largest labelled area unless one near it is shown."""
    if not volumes:
        return
    areas = np.max([np.count_nonzero(volume, axis=(1, 2)) for volume in volumes], axis=0)
    z = int(areas.argmax())
    distance_mm = case.geometry.spacing_mm[2]
    near = any(abs(z - other.z) * distance_mm < _MIN_DISTANCE_MM for other in shown)
    if areas[z] == 0 or near:
        return
    labels = np.concatenate([volume[z].ravel() for volume in volumes])
    counts = np.bincount(labels)
    counts[0] = 0
    shown.append(ChosenSlice(z, reason, int(counts.argmax())))


def _unmatched(
    labels: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Keep the lesions of each label that the other's same label covers too little of."""
    kept = np.zeros_like(labels)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts, count = ndimage.label(labels[box] == label, _NEIGHBOURHOOD)
        voxels = np.bincount(parts.ravel(), minlength=count + 1)
        covered = np.bincount(parts[other[box] == label], minlength=count + 1)
        unmatched = covered < MIN_OVERLAP * voxels
        unmatched[0] = False
        kept[box][unmatched[parts]] = label
    return kept


def _picture(case: CaseVolumes, chosen: ChosenSlice, classes: Sequence[ClassSpec]) -> SlicePicture:
    column_mm, row_mm, _ = case.geometry.spacing_mm
    spacing_mm = (row_mm, column_mm)
    spec = ClassSpec(name="any", title="any", kind="lesion")
    if chosen.label is not None:
        spec = classes[chosen.label - 1]
    marked = case.reference[chosen.z] > 0
    for labels in case.predictions.values():
        marked = marked | (labels[chosen.z] > 0)
    return SlicePicture(
        hu=case.hu[chosen.z],
        row_spacing_mm=row_mm,
        column_spacing_mm=column_mm,
        window_hu=spec.window_hu,
        crop=focus_box(marked, body_box(case.hu[chosen.z], spacing_mm), spacing_mm),
    )


def _position(case: CaseVolumes, chosen: ChosenSlice, picture: SlicePicture) -> str:
    low, high = picture.window_hu
    return (
        f"Slice {chosen.z + 1} of {len(case.hu)} from the feet ({chosen.reason}), "
        f"window {low:g} to {high:g} HU"
    )


def _masks(labels: npt.NDArray[np.uint8], classes: Sequence[ClassSpec]) -> dict[str, Mask]:
    return {
        spec.title: labels == number
        for number, spec in enumerate(classes, start=1)
        if (labels == number).any()
    }


def _marks(
    reference: npt.NDArray[np.uint8],
    missed: npt.NDArray[np.uint8],
    false: npt.NDArray[np.uint8],
    classes: Sequence[ClassSpec],
) -> tuple[Mark, ...]:
    """Name every lesion of the reference and every false one of the prediction."""
    found: list[tuple[int, Mark]] = []
    for number, spec in enumerate(classes, start=1):
        for rows, columns in _regions(reference == number):
            lost = bool(missed[rows[0], columns[0]] == number)
            word = f"missed: {spec.title}" if lost else spec.title
            kind = "missed" if lost else "name"
            found.append((len(rows), Mark(word, rows.min(), columns.mean() + 0.5, kind)))
        for rows, columns in _regions(false == number):
            mark = Mark(f"false: {spec.title}", rows.min(), columns.mean() + 0.5, "false")
            found.append((len(rows), mark))
    found.sort(key=lambda item: -item[0])
    return tuple(mark for _, mark in found[:_MAX_MARKS])


def _regions(mask: Mask) -> list[tuple[npt.NDArray[np.intp], ...]]:
    """Return (rows, columns) of each connected region of a slice."""
    parts, count = ndimage.label(mask, np.ones((3, 3), dtype=bool))
    return [np.nonzero(parts == number) for number in range(1, count + 1)]
