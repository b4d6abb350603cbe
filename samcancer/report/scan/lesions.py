"""The lesions that a page lists: as measured in the report, else as components of the mask.

Positions are voxels (column, row) of the canonical volume, with fractions; slices are its slices,
counted from 0 at the feet. Diameters follow RECIST 1.1, as samcancer.inference.diameters has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.inference.diameters import Diameters, measure_diameters
from samcancer.report.scan.case import ScanCase, ShownClass

Line = tuple[tuple[float, float], tuple[float, float]]
"""(column, row) of both ends."""

MAX_LISTED = 200
"""Lesions in the table and on the viewer's rail; a noisy mask of another program has thousands."""

_NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
"""26-connectivity, as the measured lesions have."""


@dataclass(frozen=True, kw_only=True)
class ShownLesion:
    """One lesion; None stands for what nobody measured."""

    name: str
    """As in the report, such as ``liver_lesion-2``."""
    class_title: str
    label: int
    volume_ml: float
    key_slice: int
    first_slice: int
    last_slice: int
    long_axis: Line
    short_axis: Line
    long_axis_mm: float
    short_axis_mm: float
    mean_hu: float
    sd_hu: float
    probability: float | None = None
    agreement: float | None = None


def lesions_of(case: ScanCase) -> tuple[ShownLesion, ...]:
    """Return the lesions of a case, from the head to the feet within each class."""
    if "lesions" in case.report:
        return tuple(_from_report(entry, case) for entry in case.report["lesions"])
    found: list[ShownLesion] = []
    for shown in case.classes:
        if shown.kind == "lesion" and shown.label is not None:
            found += _components(case, shown)
    return tuple(found)


def largest_lesions(lesions: Sequence[ShownLesion]) -> tuple[ShownLesion, ...]:
    """Return the lesions that a page lists, in the same order: all, or the largest of very many."""
    by_size = sorted(range(len(lesions)), key=lambda index: -lesions[index].volume_ml)
    return tuple(lesions[index] for index in sorted(by_size[:MAX_LISTED]))


def _from_report(entry: Mapping[str, Any], case: ScanCase) -> ShownLesion:
    long_axis, short_axis = (
        _line(entry[f"{which}_axis_ends_mm"], case.geometry) for which in ("long", "short")
    )
    name, label = str(entry["class_name"]), int(entry["label"])
    known = next((shown for shown in case.classes if shown.name == name), case.class_of(label))
    first, key, last = (int(entry[f"{which}_slice"]) for which in ("first", "key", "last"))
    if not 0 <= first <= key <= last < len(case.hu):
        raise InputError(
            f"its report puts a lesion on slices {first} to {last}, the scan has {len(case.hu)}"
        )
    return ShownLesion(
        name=str(entry["lesion_id"]),
        class_title=known.title,
        label=label,
        volume_ml=float(entry["volume_ml"]),
        key_slice=key,
        first_slice=first,
        last_slice=last,
        long_axis=long_axis,
        short_axis=short_axis,
        long_axis_mm=float(entry["long_axis_mm"]),
        short_axis_mm=float(entry["short_axis_mm"]),
        mean_hu=entry["mean_hu"],
        sd_hu=entry["sd_hu"],
        probability=entry["mean_probability"],
        agreement=entry["fold_agreement"],
    )


def _line(ends_mm: Any, geometry: Geometry) -> Line:
    (x0, y0, _), (x1, y1, _) = geometry.index_xyz(np.asarray(ends_mm, dtype=np.float64))
    return (float(x0), float(y0)), (float(x1), float(y1))


def _components(case: ScanCase, shown: ShownClass) -> list[ShownLesion]:
    mask = np.asarray(case.labels == shown.label)
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return []
    inside = boxes[0]
    parts, _ = ndimage.label(mask[inside], _NEIGHBOURHOOD)
    places = enumerate(ndimage.find_objects(parts), start=1)
    from_head = sorted(places, key=lambda place: -place[1][0].stop)
    lesions = []
    for number, (part, box) in enumerate(from_head, start=1):
        voxels = parts[box] == part
        values: npt.NDArray[np.int16] = case.hu[inside][box][voxels]
        start = [outer.start + inner.start for outer, inner in zip(inside, box, strict=True)]
        lesions.append(
            ShownLesion(
                name=f"{shown.name}-{number}",
                class_title=shown.title,
                label=int(shown.label or 0),
                volume_ml=len(values) * case.geometry.voxel_volume_ml,
                first_slice=start[0],
                last_slice=start[0] + len(voxels) - 1,
                mean_hu=float(values.mean()),
                sd_hu=float(values.std()),
                **_diameters(voxels, start, case.geometry),
            )
        )
    return lesions


def _diameters(
    voxels: npt.NDArray[np.bool_], start: Sequence[int], geometry: Geometry
) -> dict[str, Any]:
    """Return the fields of the longest diameter over all slices, and of its perpendicular."""
    column_mm, row_mm, _ = geometry.spacing_mm
    best: tuple[int, Diameters] | None = None
    for z, plane in enumerate(voxels):
        rows, columns = plane.nonzero()
        if not len(rows):
            continue
        reach_mm = np.hypot((np.ptp(rows) + 1) * row_mm, (np.ptp(columns) + 1) * column_mm)
        if best is not None and reach_mm <= best[1].long_mm:
            continue
        found = measure_diameters(
            rows + start[1], columns + start[2], row_mm=row_mm, column_mm=column_mm
        )
        if best is None or found.long_mm > best[1].long_mm:
            best = z, found
    assert best is not None  # a component has a voxel
    z, found = best
    return {
        "key_slice": start[0] + z,
        "long_axis": _as_line(found.long_ends),
        "short_axis": _as_line(found.short_ends),
        "long_axis_mm": found.long_mm,
        "short_axis_mm": found.short_mm,
    }


def _as_line(ends: npt.NDArray[np.float64]) -> Line:
    (row, column), (other_row, other_column) = ends.tolist()
    return (column, row), (other_column, other_row)
