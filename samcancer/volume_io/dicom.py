"""A CT series in DICOM, from a folder of files to HU on a grid, or a line that says why not.

Slices are ordered by their position along the slice normal (PS3.3 C.7.6.2), rescaled one by one,
and refused when any is missing, double, tilted or unreadable: a gap that is closed silently moves
every lesion below it. Of a file's values only UIDs, numbers and known code words are ever quoted.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.geometry import Geometry
from samcancer.volume_io.dicom_files import (
    RE_EXPORT,
    Tags,
    numbers_of,
    read_slice_hu,
    read_tags,
    whole_number_of,
)
from samcancer.volume_io.grids import nearest_rotation_of
from samcancer.volume_io.volume import CtVolume

SPACING_RELATIVE_TOLERANCE = 1e-2
"""Largest relative departure of one slice distance from the median distance."""

TILT_TOLERANCE_DEGREES = 0.1
"""Largest angle between the slice normal and the line through the slice positions."""

SHIFT_TOLERANCE_MM = 0.1
"""Largest distance of a slice from the line through the first and the last."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between two slices' direction cosines."""

_MIN_SLICES = 2
"""A slice spacing cannot be known from fewer."""

_LISTED = 5
"""Items named in a message before it says how many more there are."""


@dataclass(frozen=True)
class _Slice:
    """One CT image's header and where it lies."""

    path: Path
    position_mm: NDArray[np.float64]
    cosines: NDArray[np.float64]
    """(2, 3): direction of a row's pixels, direction of a column's pixels."""
    pixel_mm: NDArray[np.float64]
    """Between rows, between columns."""
    shape: tuple[int, int]
    """Rows, columns."""
    number: int | None
    """InstanceNumber."""
    announced: int
    """ImagesInAcquisition; 0 where the header does not say."""
    frame: str
    """FrameOfReferenceUID; empty where the header does not say."""


def read_dicom_ct(folder: Path, *, series: str | None = None) -> CtVolume:
    """Read the CT series of a folder.

    Args:
        folder: Holds the series' files, and possibly other DICOM objects; subfolders are not read.
        series: SeriesInstanceUID, needed when the folder holds several CT series.

    Raises:
        InputError: When there is no series or no single one, or slices are missing, double,
            tilted, of different sizes, or cannot be decoded.
    """
    found, others = _find_series(folder)
    slices = _choose_series(found, others, series, folder)
    ordered, step_mm = _order(slices, folder)
    first = ordered[0]
    row_mm, column_mm = (float(v) for v in first.pixel_mm)
    geometry = Geometry(
        (first.shape[1], first.shape[0], len(ordered)),
        (column_mm, row_mm, step_mm),
        tuple(float(v) for v in first.position_mm),  # type: ignore[arg-type]  # three
        tuple(float(v) for v in _axes(first).ravel()),
    )
    hu = np.empty(geometry.shape, np.int16)
    for index, item in enumerate(ordered):
        hu[index] = read_slice_hu(item.path, item.shape)
    digest = hashlib.sha256("".join(sha256_of(item.path) for item in ordered).encode()).hexdigest()
    told = _warnings(ordered, others)
    files = tuple(item.path for item in ordered)
    return CtVolume(hu, geometry, folder, digest, told, "dicom", files)


def _warnings(slices: list[_Slice], others: dict[str, int]) -> tuple[str, ...]:
    told = []
    if others:
        told.append(f"other files in the folder were left out: {_listed_others(others)}")
    numbers = [item.number for item in slices if item.number is not None]
    announced = max(item.announced for item in slices)
    if announced > len(slices):
        told.append(f"{len(slices)} slices of an acquisition of {announced}: an end may be missing")
    elif numbers and min(numbers) > 1:
        told.append(f"the first slice has number {min(numbers)}: an end may be missing")
    return tuple(told)


def _axes(item: _Slice) -> NDArray[np.float64]:
    """(3, 3): orthonormal columns along a row's pixels, a column's pixels, and the slices."""
    row, column = item.cosines
    return nearest_rotation_of(np.stack([row, column, np.cross(row, column)], axis=1))


def _find_series(folder: Path) -> tuple[dict[str, list[_Slice]], dict[str, int]]:
    """CT slices by series, and how many files of what kind are left out."""
    found: dict[str, list[_Slice]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        tags = read_tags(path)
        reason = "not DICOM" if tags is None else _why_not_a_slice(tags)
        if tags is None or reason is not None:
            others[reason or ""] += 1
        else:
            if not tags["SeriesInstanceUID"]:
                raise InputError("has no SeriesInstanceUID", path=path, mend=RE_EXPORT)
            found[str(tags["SeriesInstanceUID"])].append(_placed(path, tags))
    return found, others


def _listed_others(others: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(others.items()))


def _why_not_a_slice(tags: Tags) -> str | None:
    modality = tags["Modality"]
    if modality != "CT":
        return f"of modality {modality}" if modality in _NAMED_MODALITIES else "of other modality"
    kinds = [str(v).upper() for v in _several(tags["ImageType"])]
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "localizer"
    if "SECONDARY" in kinds and "AXIAL" not in kinds:
        return "derived image"
    return None


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


_NAMED_MODALITIES = (
    "RTSTRUCT", "RTPLAN", "RTDOSE", "SEG", "SR", "MR", "PT", "PR", "REG", "KO", "OT",
)  # fmt: skip
"""Modalities quoted in warnings; any other value is free text and is not."""


def _placed(path: Path, tags: Tags) -> _Slice:
    frames = whole_number_of(tags, "NumberOfFrames", path) or 1
    if frames > 1:
        raise InputError(f"holds {frames} frames in one file", path=path,
                         mend="export it as one file per slice")  # fmt: skip
    position = numbers_of(tags, "ImagePositionPatient", 3, path)
    cosines = numbers_of(tags, "ImageOrientationPatient", 6, path).reshape(2, 3)
    pixel_mm = numbers_of(tags, "PixelSpacing", 2, path)
    size = numbers_of(tags, "Rows", 1, path)[0], numbers_of(tags, "Columns", 1, path)[0]
    if not ((pixel_mm > 0).all() and min(size) >= 1):
        shown = " x ".join(f"{v:g}" for v in pixel_mm)
        raise InputError(f"its pixels are {shown} mm", path=path, mend=RE_EXPORT)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > 10 * ORIENTATION_TOLERANCE:
        raise InputError("its ImageOrientationPatient is not perpendicular", path=path,
                         mend=RE_EXPORT)  # fmt: skip
    return _Slice(
        path,
        position,
        cosines,
        pixel_mm,
        (int(size[0]), int(size[1])),
        whole_number_of(tags, "InstanceNumber", path),
        whole_number_of(tags, "ImagesInAcquisition", path) or 0,
        str(tags["FrameOfReferenceUID"] or ""),
    )


def _choose_series(
    found: dict[str, list[_Slice]], others: dict[str, int], series: str | None, folder: Path
) -> list[_Slice]:
    if not found:
        instead = f", only {_listed_others(others)}" if others else ""
        raise InputError(f"holds no CT slices in DICOM{instead}", path=folder,
                         mend="name another folder")  # fmt: skip
    listed = "; ".join(f"{uid} ({len(items)} slices)" for uid, items in sorted(found.items()))
    if series is not None:
        if series not in found:
            raise InputError(
                f"has no series {series}, only {listed}", path=folder, mend="choose one of these"
            )
        return found[series]
    if len(found) > 1:
        raise InputError(
            f"holds {len(found)} CT series: {listed}", path=folder, mend="choose one with --series"
        )
    return next(iter(found.values()))


def _order(slices: list[_Slice], folder: Path) -> tuple[list[_Slice], float]:
    """Sort along the normal and return the slice distance in mm."""
    if len(slices) < _MIN_SLICES:
        raise InputError(
            f"the series has {len(slices)} slice, so its slice distance is unknown",
            path=folder,
            mend="give the whole series",
        )
    first = slices[0]
    for item in slices:
        _require_alike(item, first)
    normal = _axes(first)[:, 2]
    ordered = sorted(slices, key=lambda item: float(item.position_mm @ normal))
    places = np.array([float(item.position_mm @ normal) for item in ordered])
    gaps = np.diff(places)
    step_mm = float(np.median(gaps))
    twins = [i for i, gap in enumerate(gaps) if gap < 0.5 * step_mm or gap <= 0]
    if twins:
        names = [f"{ordered[i].path.name} and {ordered[i + 1].path.name}" for i in twins]
        raise InputError(f"slices at the same position: {_some(names)}", path=folder,
                         mend="remove the doubles")  # fmt: skip
    wide = [
        i for i, gap in enumerate(gaps) if abs(gap - step_mm) > SPACING_RELATIVE_TOLERANCE * step_mm
    ]
    if wide:
        spots = [f"{places[i]:.2f} to {places[i + 1]:.2f} mm" for i in wide]
        raise InputError(
            f"slices are {step_mm:.3g} mm apart but some are missing or uneven: {_some(spots)}",
            path=folder,
            mend=RE_EXPORT,
        )
    _require_straight(ordered, normal, folder)
    return ordered, float((places[-1] - places[0]) / (len(places) - 1))


def _require_straight(ordered: list[_Slice], normal: NDArray[np.float64], folder: Path) -> None:
    """Refuse slices that do not lie behind one another along their normal."""
    offsets = np.stack([item.position_mm - ordered[0].position_mm for item in ordered])
    along = offsets @ normal
    across = offsets - along[:, None] * normal
    tilt = math.degrees(math.atan2(float(np.linalg.norm(across[-1])), float(along[-1])))
    if tilt > TILT_TOLERANCE_DEGREES:
        raise InputError(
            f"the gantry was tilted by {tilt:.2f} degrees", path=folder,
            mend="resample the series to perpendicular axes first",
        )  # fmt: skip
    astray = np.linalg.norm(across - along[:, None] / along[-1] * across[-1], axis=1)
    shifted = [ordered[i].path.name for i in np.flatnonzero(astray > SHIFT_TOLERANCE_MM)]
    if shifted:
        raise InputError(f"slices shifted sideways by up to {astray.max():.3g} mm: "
                         f"{_some(shifted)}", path=folder, mend=RE_EXPORT)  # fmt: skip


def _require_alike(item: _Slice, first: _Slice) -> None:
    if item.shape != first.shape:
        raise InputError(
            f"is {item.shape[0]} x {item.shape[1]} pixels where {first.path.name} is "
            f"{first.shape[0]} x {first.shape[1]}",
            path=item.path,
            mend=RE_EXPORT,
        )
    if item.frame != first.frame:
        raise InputError(
            f"lies in another frame of reference than {first.path.name}",
            path=item.path,
            mend=RE_EXPORT,
        )
    if np.abs(item.cosines - first.cosines).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"is oriented otherwise than {first.path.name}", path=item.path, mend=RE_EXPORT
        )
    if np.abs(item.pixel_mm - first.pixel_mm).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"has pixels of other size than {first.path.name}", path=item.path, mend=RE_EXPORT
        )


def _some(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")
