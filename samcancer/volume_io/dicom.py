"""A CT series in DICOM, from a folder of files to HU on a grid, or a line that says why not.

Slices are ordered by their position along the slice normal (PS3.3 C.7.6.2), rescaled one by one,
and refused when any is missing, double, tilted or unreadable: a gap that is closed silently moves
every lesion below it. Only file names and UIDs appear in messages; names, dates and numbers of
patients are never read.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.geometry import Geometry
from samcancer.volume_io.volume import CtVolume

SPACING_RELATIVE_TOLERANCE = 1e-2
"""Largest relative departure of one slice distance from the median distance."""

TILT_TOLERANCE_DEGREES = 0.1
"""Largest angle between the slice normal and the line through the slice positions."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between two slices' direction cosines."""

_MIN_SLICES = 2
"""A slice spacing cannot be known from fewer."""

_LISTED = 5
"""Items named in a message before it says how many more there are."""

_INT16 = np.iinfo(np.int16)

_RE_EXPORT = "export the series again"


@dataclass(frozen=True)
class _Slice:
    """One CT image's header and where it lies."""

    path: Path
    header: Any
    position_mm: NDArray[np.float64]
    cosines: NDArray[np.float64]
    """(2, 3): direction of a row's pixels, direction of a column's pixels."""


def read_dicom_ct(folder: Path, *, series: str | None = None) -> CtVolume:
    """Read the CT series of a folder.

    Args:
        folder: Holds the series' files, and possibly other DICOM objects; subfolders are not read.
        series: SeriesInstanceUID, needed when the folder holds several CT series.

    Raises:
        InputError: When there is no series or no single one, or slices are missing, double,
            tilted, of different sizes, or cannot be decoded.
    """
    found, warnings = _find_series(folder)
    slices = _choose_series(found, series, folder)
    ordered, step_mm = _order(slices, folder)
    first = ordered[0]
    row_mm, column_mm = (float(v) for v in first.header.PixelSpacing)
    normal = np.cross(first.cosines[0], first.cosines[1])
    direction = np.stack([first.cosines[0], first.cosines[1], normal], axis=1)
    geometry = Geometry(
        (int(first.header.Columns), int(first.header.Rows), len(ordered)),
        (column_mm, row_mm, step_mm),
        tuple(float(v) for v in first.position_mm),  # type: ignore[arg-type]
        tuple(float(v) for v in direction.ravel()),
    )
    hu = np.empty(geometry.shape, np.int16)
    for index, item in enumerate(ordered):
        hu[index] = _slice_hu(item, geometry.shape[1:])
    digest = hashlib.sha256("".join(sha256_of(item.path) for item in ordered).encode()).hexdigest()
    return CtVolume(hu, geometry, folder, digest, warnings, "dicom")


def _find_series(folder: Path) -> tuple[dict[str, list[_Slice]], tuple[str, ...]]:
    """CT slices by series, and one warning for what else the folder holds."""
    found: dict[str, list[_Slice]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if path.stat().st_size == 0:
            raise InputError("the file is empty (0 bytes)", path=path, mend="re-copy the file")
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            others["not DICOM"] += 1
            continue
        except (OSError, EOFError, ValueError, AttributeError, KeyError) as error:
            raise InputError(
                f"its DICOM header is damaged ({type(error).__name__})",
                path=path,
                mend="re-copy the file",
            ) from None
        reason = _why_not_a_slice(header)
        if reason is None:
            found[str(header.get("SeriesInstanceUID"))].append(_placed(path, header))
        else:
            others[reason] += 1
    if not others:
        return found, ()
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(others.items()))
    return found, (f"other files in the folder were left out: {listed}",)


def _why_not_a_slice(header: Any) -> str | None:
    modality = header.get("Modality")
    if modality != "CT":
        return f"of modality {modality}" if modality in _NAMED_MODALITIES else "of other modality"
    kinds = [str(v).upper() for v in header.get("ImageType") or ()]
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "localizer"
    if "SECONDARY" in kinds and "AXIAL" not in kinds:
        return "derived image"
    return None


_NAMED_MODALITIES = (
    "RTSTRUCT",
    "RTPLAN",
    "RTDOSE",
    "SEG",
    "SR",
    "MR",
    "PT",
    "PR",
    "REG",
    "KO",
    "OT",
)
"""Modalities quoted in warnings; any other value is free text and is not."""


def _placed(path: Path, header: Any) -> _Slice:
    missing = [
        name
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows")
        if header.get(name) is None
    ]
    if missing:
        raise InputError(f"has no {missing[0]}", path=path, mend=_RE_EXPORT)
    try:
        position = np.asarray([float(v) for v in header.ImagePositionPatient])
        cosines = np.asarray([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3)
        spacing = [float(v) for v in header.PixelSpacing]
    except (ValueError, TypeError) as error:
        raise InputError(
            f"its position is malformed ({error})", path=path, mend=_RE_EXPORT
        ) from None
    if len(spacing) != 2 or not all(math.isfinite(v) and v > 0 for v in spacing):
        raise InputError(f"its PixelSpacing is {spacing}", path=path, mend=_RE_EXPORT)
    unit = np.abs(cosines @ cosines.T - np.eye(2)).max()
    if not unit <= 10 * ORIENTATION_TOLERANCE:
        raise InputError("its ImageOrientationPatient is not perpendicular", path=path,
                         mend=_RE_EXPORT)  # fmt: skip
    return _Slice(path, header, position, cosines)


def _choose_series(
    found: dict[str, list[_Slice]], series: str | None, folder: Path
) -> list[_Slice]:
    if not found:
        raise InputError("holds no CT slices in DICOM", path=folder, mend="name another folder")
    listed = "; ".join(f"{uid} ({len(items)} slices)" for uid, items in sorted(found.items()))
    if series is not None:
        if series not in found:
            raise InputError(f"has no series {series}, only {listed}", path=folder)
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
    normal = np.cross(first.cosines[0], first.cosines[1])
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
            mend=_RE_EXPORT,
        )
    line = ordered[-1].position_mm - ordered[0].position_mm
    across = np.linalg.norm(line - normal * (line @ normal))
    tilt = math.degrees(math.atan2(float(across), float(line @ normal)))
    if tilt > TILT_TOLERANCE_DEGREES:
        raise InputError(
            f"the gantry was tilted by {tilt:.2f} degrees", path=folder,
            mend="resample the series to perpendicular axes first",
        )  # fmt: skip
    return ordered, float((places[-1] - places[0]) / (len(places) - 1))


def _require_alike(item: _Slice, first: _Slice) -> None:
    shape = (int(item.header.Rows), int(item.header.Columns))
    expected = (int(first.header.Rows), int(first.header.Columns))
    if shape != expected:
        raise InputError(
            f"is {shape[0]} x {shape[1]} pixels where {first.path.name} is "
            f"{expected[0]} x {expected[1]}",
            path=item.path,
            mend=_RE_EXPORT,
        )
    if np.abs(item.cosines - first.cosines).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"is oriented otherwise than {first.path.name}", path=item.path, mend=_RE_EXPORT
        )
    spacing, usual = (np.asarray(s.header.PixelSpacing, float) for s in (item, first))
    if np.abs(spacing - usual).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"has pixels of other size than {first.path.name}", path=item.path, mend=_RE_EXPORT
        )


def _slice_hu(item: _Slice, shape: tuple[int, int]) -> NDArray[np.int16]:
    content = pydicom.dcmread(item.path)
    try:
        stored = content.pixel_array
    except (RuntimeError, NotImplementedError, ImportError) as error:
        syntax = content.file_meta.TransferSyntaxUID
        raise InputError(
            f"its pixels are compressed as {syntax.name} ({syntax}) and cannot be decoded here "
            f"({type(error).__name__})",
            path=item.path,
            mend="pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg",
        ) from None
    except (ValueError, AttributeError, EOFError, OSError) as error:
        raise InputError(
            f"its pixels are missing or cut short ({type(error).__name__})",
            path=item.path,
            mend="re-copy the file",
        ) from None
    if stored.shape != shape:
        raise InputError(f"holds an array of shape {stored.shape}", path=item.path, mend=_RE_EXPORT)
    slope, intercept = content.get("RescaleSlope"), content.get("RescaleIntercept")
    if slope is None or intercept is None:
        raise InputError("has no rescale slope and intercept, so it is not in HU", path=item.path,
                         mend=_RE_EXPORT)  # fmt: skip
    hu = np.rint(stored * float(slope) + float(intercept))
    if not (hu.min() >= _INT16.min and hu.max() <= _INT16.max):
        raise InputError(
            f"its values run from {hu.min():g} to {hu.max():g} HU, outside int16", path=item.path,
            mend="check the rescale slope and intercept",
        )  # fmt: skip
    return hu.astype(np.int16)


def _some(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")
