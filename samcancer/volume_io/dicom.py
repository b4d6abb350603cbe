"""A CT series in DICOM, from a folder of files to HU on a grid, or a line that says why not.

Slices are ordered by their position along the slice normal (PS3.3 C.7.6.2), rescaled one by one,
and refused when any is missing, double, tilted or unreadable: a gap that is closed silently moves
every lesion below it. Of a file's values only UIDs, numbers and known code words are ever quoted.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import ExitStack
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
    TRANSFER_SYNTAX,
    Tags,
    needs_own_process,
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
    lossy: bool
    """Whether its pixels were compressed with a loss, now or before."""
    packed: bool
    """Whether its pixels are decoded in a process of their own."""


def read_dicom_ct(
    folder: Path, *, series: str | None = None, files: Collection[Path] = ()
) -> CtVolume:
    """Read the CT series of a folder.

    Args:
        folder: Holds the series' files, and possibly other DICOM objects; subfolders are not read.
        series: SeriesInstanceUID, needed when the folder holds several CT series; the only way to
            read a series of derived images.
        files: Files named one by one, resolved. If any lie in the folder, only these are read.

    Raises:
        InputError: When there is no series or no single one, or slices are missing, double,
            tilted, of different sizes, or cannot be decoded.
    """
    ordered, step_mm, others = _ordered_series(folder, series, files)
    first = ordered[0]
    row_mm, column_mm = (float(v) for v in first.pixel_mm)
    geometry = Geometry(
        (first.shape[1], first.shape[0], len(ordered)),
        (column_mm, row_mm, step_mm),
        tuple(float(v) for v in first.position_mm),  # type: ignore[arg-type]  # three
        tuple(float(v) for v in _axes(first).ravel()),
    )
    hu = np.empty(geometry.shape, np.int16)
    with ExitStack() as stack:
        read = read_slice_hu
        if any(item.packed for item in ordered):
            from samcancer.volume_io.dicom_worker import decoding_process

            read = stack.enter_context(decoding_process()).slice_hu
        for index, item in enumerate(ordered):
            hu[index] = read(item.path, item.shape)
    told = _warnings(ordered, others)
    paths = tuple(item.path for item in ordered)
    return CtVolume(hu, geometry, folder, _sha256_of(ordered), told, "dicom", paths)


def series_sha256(folder: Path, *, series: str | None = None, files: Collection[Path] = ()) -> str:
    """Return the ``source_sha256`` that reading the series gives, without decoding a pixel.

    Raises:
        InputError: As :func:`read_dicom_ct`.
    """
    return _sha256_of(_ordered_series(folder, series, files)[0])


def ct_series_of(folder: Path) -> set[str]:
    """Return the SeriesInstanceUIDs of a folder's CT slices, derived ones included.

    Raises:
        InputError: When a file is damaged.
    """
    found = set()
    for path in _files_of(folder):
        tags = read_tags(path)
        if tags is not None and _why_not_a_slice(tags) in (None, _DERIVED):
            found.add(str(tags["SeriesInstanceUID"] or ""))
    return found


def holds_ct(folder: Path) -> bool:
    """Whether any file of a folder is a CT slice that is read unasked.

    Raises:
        InputError: When a file before the first such slice is damaged.
    """
    headers = (read_tags(path) for path in _files_of(folder))
    return any(tags is not None and _why_not_a_slice(tags) is None for tags in headers)


def _warnings(slices: list[_Slice], others: dict[str, int]) -> tuple[str, ...]:
    told = []
    if others:
        told.append(f"other files in the folder were left out: {_listed_others(others)}")
    if lossy := sum(item.lossy for item in slices):
        told.append(f"{lossy} of {len(slices)} slices were compressed with a loss")
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


def _ordered_series(
    folder: Path, series: str | None, files: Collection[Path]
) -> tuple[list[_Slice], float, dict[str, int]]:
    """Return the slices along their normal, their distance in mm, and what is left out."""
    found, others, derived = _find_series(_files_of(folder, files), series)
    slices = _choose_series(found, others, derived, series=series, folder=folder)
    return *_order(slices, folder), others


def _sha256_of(ordered: list[_Slice]) -> str:
    return hashlib.sha256("".join(sha256_of(item.path) for item in ordered).encode()).hexdigest()


def _files_of(folder: Path, files: Collection[Path] = ()) -> list[Path]:
    inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    named = [p for p in inside if p.resolve() in files] if files else []
    return named or inside


def _find_series(
    paths: Iterable[Path], wanted: str | None
) -> tuple[dict[str, list[_Slice]], dict[str, int], set[str]]:
    """CT slices by series, how many files of what kind are left out, and series of derived ones."""
    found: dict[str, list[_Slice]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    derived: set[str] = set()
    for path in paths:
        tags = read_tags(path)
        reason = "not DICOM" if tags is None else _why_not_a_slice(tags)
        if tags is not None and reason == _DERIVED and tags["SeriesInstanceUID"] == wanted:
            reason = None
        if tags is None or reason is not None:
            others[reason or ""] += 1
            if tags is not None and reason == _DERIVED:
                derived.add(str(tags["SeriesInstanceUID"] or "without UID"))
        else:
            if not tags["SeriesInstanceUID"]:
                raise InputError("has no SeriesInstanceUID", path=path, mend=RE_EXPORT)
            found[str(tags["SeriesInstanceUID"])].append(_placed(path, tags))
    return found, others, derived


def _listed_others(others: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(others.items()))


def _why_not_a_slice(tags: Tags) -> str | None:
    modality = tags["Modality"]
    if modality != "CT":
        return f"of modality {modality}" if modality in _NAMED_MODALITIES else "of other modality"
    kinds = [str(v).upper() for v in _several(tags["ImageType"])]
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "localizer"
    if ("SECONDARY" in kinds and "AXIAL" not in kinds) or _MADE_OF_SLICES & set(kinds):
        return _DERIVED
    return None


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


_DERIVED = "derived image"

_MADE_OF_SLICES = {
    "MPR", "CSA MPR", "CSA RESAMPLED", "REFORMATTED", "PROJECTION IMAGE", "MIP", "MINIP", "AVERAGE",
    "VRT", "VOLREN", "SSD", "CPR", "CURVED", "BATCH", "SCREENSHOT", "SCREEN SAVE",
}  # fmt: skip
"""Values of ImageType of images that were computed from a series of slices."""

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
        tags["LossyImageCompression"] == "01",
        needs_own_process(tags[TRANSFER_SYNTAX]),
    )


def _choose_series(
    found: dict[str, list[_Slice]],
    others: dict[str, int],
    derived: set[str],
    *,
    series: str | None,
    folder: Path,
) -> list[_Slice]:
    if not found:
        instead = f", only {_listed_others(others)}" if others else ""
        if not derived:
            mend = "name another folder"
        else:
            listed = _some(sorted(derived))
            mend = f"name another folder, or choose a derived series with --series: {listed}"
        raise InputError(f"holds no CT slices in DICOM{instead}", path=folder, mend=mend)
    listed = "; ".join(f"{uid} ({_described(items)})" for uid, items in sorted(found.items()))
    if series is not None:
        if series not in found:
            raise InputError(
                f"has no series {series}, only {listed}", path=folder, mend="choose one of these"
            )
        if rest := sum(len(items) for uid, items in found.items() if uid != series):
            others["of another CT series"] = rest
        return found[series]
    if len(found) > 1:
        raise InputError(
            f"holds {len(found)} CT series: {listed}",
            path=folder,
            mend="choose one with --series, or in the column series of a table",
        )
    return next(iter(found.values()))


def _described(slices: list[_Slice]) -> str:
    """Say what a series is in numbers and words of our own; its description may hold names."""
    first = slices[0]
    normal = np.cross(*first.cosines)
    axis = int(np.argmax(np.abs(normal)))
    tilt = math.degrees(math.acos(min(1.0, float(np.abs(normal[axis])))))
    plane = _PLANES[axis] if tilt < _OBLIQUE_DEGREES else "oblique"
    places = np.unique([float(item.position_mm @ normal) for item in slices])
    step = f" x {float(np.median(np.diff(places))):.3g}" if len(places) > 1 else ""
    return (
        f"{len(slices)} slices, {plane}, {first.shape[0]} x {first.shape[1]} pixels, voxels of "
        f"{first.pixel_mm[1]:.3g} x {first.pixel_mm[0]:.3g}{step} mm"
    )


_PLANES = ("sagittal", "coronal", "axial")
"""By the axis of the patient that a slice is perpendicular to."""

_OBLIQUE_DEGREES = 10.0
"""From here on a plane is called oblique."""


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
