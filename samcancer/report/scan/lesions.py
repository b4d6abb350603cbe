"""The lesions that a page lists: as measured in the report, else as components of the mask.

Positions are voxels (column, row) of the canonical volume, with fractions; slices are its slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samcancer.geometry import Geometry
from samcancer.report.scan.case import ScanCase, ShownClass

Line = tuple[tuple[float, float], tuple[float, float]]
"""(column, row) of both ends."""

_NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
"""26-connectivity, as the measured lesions have."""


@dataclass(frozen=True, kw_only=True)
class ShownLesion:
    """One lesion; None stands for what nobody measured."""

    name: str
    """As in the report, such as ``liver_lesion-2``."""
    label: int
    volume_ml: float
    key_slice: int
    first_slice: int
    last_slice: int
    long_axis: Line | None = None
    short_axis: Line | None = None
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    mean_hu: float | None = None
    sd_hu: float | None = None
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


def _from_report(entry: Mapping[str, Any], case: ScanCase) -> ShownLesion:
    long_axis, short_axis = (
        _line(entry[f"{which}_axis_ends_mm"], case.geometry) for which in ("long", "short")
    )
    ends = case.geometry.index_xyz(np.asarray(entry["long_axis_ends_mm"], dtype=np.float64))
    key = min(max(round(float(ends[:, 2].mean())), 0), len(case.hu) - 1)
    reach = [_canonical_slice(int(entry[f"{which}_slice"]), case) for which in ("first", "last")]
    slices = [key, *(z for z in reach if z is not None)]
    return ShownLesion(
        name=str(entry["lesion_id"]),
        label=int(entry["label"]),
        volume_ml=float(entry["volume_ml"]),
        key_slice=key,
        first_slice=min(slices),
        last_slice=max(slices),
        long_axis=long_axis,
        short_axis=short_axis,
        long_axis_mm=entry["long_axis_mm"],
        short_axis_mm=entry["short_axis_mm"],
        mean_hu=entry["mean_hu"],
        sd_hu=entry["sd_hu"],
        probability=entry["mean_probability"],
        agreement=entry["fold_agreement"],
    )


def _line(ends_mm: Any, geometry: Geometry) -> Line:
    (x0, y0, _), (x1, y1, _) = geometry.index_xyz(np.asarray(ends_mm, dtype=np.float64))
    return (float(x0), float(y0)), (float(x1), float(y1))


def _canonical_slice(stored: int, case: ScanCase) -> int | None:
    """Return the canonical slice of a slice of the file; None where those run another way."""
    if case.turn.axes[0] != 0:
        return None
    return len(case.hu) - 1 - stored if case.turn.flips[0] else stored


def _components(case: ScanCase, shown: ShownClass) -> list[ShownLesion]:
    mask = np.asarray(case.labels == shown.label)
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return []
    inside = boxes[0]
    parts, _ = ndimage.label(mask[inside], _NEIGHBOURHOOD)
    top = int(inside[0].start)
    lesions = []
    places = enumerate(ndimage.find_objects(parts), start=1)
    for number, (part, box) in enumerate(sorted(places, key=lambda p: -p[1][0].stop), start=1):
        voxels = parts[box] == part
        areas = np.count_nonzero(voxels, axis=(1, 2))
        first = top + int(box[0].start)
        values: npt.NDArray[np.int16] = case.hu[inside][box][voxels]
        lesions.append(
            ShownLesion(
                name=f"{shown.name}-{number}",
                label=int(shown.label or 0),
                volume_ml=float(areas.sum()) * case.geometry.voxel_volume_ml,
                key_slice=first + int(areas.argmax()),
                first_slice=first,
                last_slice=first + len(areas) - 1,
                mean_hu=float(values.mean()),
                sd_hu=float(values.std()),
            )
        )
    return lesions
