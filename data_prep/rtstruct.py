"""DICOM RTSTRUCT: list a structure set's regions and rasterise one onto a CT grid.

Conventions: contour points are patient coordinates in mm (LPS), as in DICOM PS3.3 C.8.8.6; a voxel
is inside when its *centre* is, by the even-odd rule, with no supersampling. Centres on an edge
belong to the side of smaller row and column index (half-open), so that regions which share an edge
tile the grid: every centre falls in exactly one. Several contours on one slice combine by
exclusive or, so an inner contour is a hole; a keyhole contour needs nothing special.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pydicom

from samcancer.errors import InputError
from samcancer.volume_io.dicom_files import DAMAGE, RE_COPY, quiet_pydicom
from samcancer.volume_io.dicom_whole import require_whole

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from samcancer.geometry import Geometry

log = logging.getLogger(__name__)

Points = npt.NDArray[np.float64]
"""(n, 3) points in mm, or (n, 2) column-row positions in voxels."""
Mask = npt.NDArray[np.bool_]

OFF_SLICE_TOLERANCE = 0.05
"""How far a contour may lie from the centre of its slice, in slice spacings."""

_NEEDED = ("StructureSetROISequence", "ROIContourSequence")
"""Without these a file is cut short."""

_TAGS = ("Modality", "ReferencedFrameOfReferenceSequence", *_NEEDED)
"""Every element that is read of a file."""

_CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contour types that enclose an area; points and open lines are refused."""

_OTHER_TYPES = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
"""Contour types that do not; any other value is free text and is not quoted."""


@dataclass(frozen=True)
class Region:
    """One region of interest of a structure set."""

    name: str
    frame_of_reference_uid: str | None
    contours_mm: tuple[Points, ...]
    """Closed contours, each (n, 3)."""
    fault: InputError | None = None
    """Why the region cannot be rasterised; other regions of the file still can."""


@dataclass(frozen=True)
class StructureSet:
    """The regions of one RTSTRUCT file."""

    path: Path
    regions: tuple[Region, ...]
    series_uid: str | None = None
    """Series it was drawn on; None where the file does not name exactly one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions in the order of the file."""
        return tuple(region.name for region in self.regions)

    def region(self, name: str) -> Region:
        """Return the region called exactly ``name``.

        Raises:
            InputError: When there is none of that name, or more than one.
        """
        found = [region for region in self.regions if region.name == name]
        if len(found) != 1:
            fact = "no structure is" if not found else f"{len(found)} structures are"
            raise InputError(
                f"{fact} named {name!r}; it holds {', '.join(map(repr, self.names)) or 'none'}",
                path=self.path,
                mend="name one of these",
            )
        return found[0]


def read_structure_set(path: Path) -> StructureSet:
    """Read an RTSTRUCT file.

    Raises:
        InputError: When the file is not an RTSTRUCT, or is damaged. A malformed contour is an error
            only once its region is rasterised.
    """
    try:
        with quiet_pydicom():
            content = pydicom.dcmread(path, specific_tags=list(_TAGS))
            regions, series = _read_regions(content, path), _series_of(content)
            modality = content.get("Modality")
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"not a readable DICOM file ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None
    if modality != "RTSTRUCT":
        raise InputError("is DICOM but no RTSTRUCT", path=path, mend="give the structure set")
    require_whole(path)
    missing = [name for name in _NEEDED if name not in content]
    if missing:
        raise InputError(f"has no {missing[0]}", path=path, mend=RE_COPY)
    return StructureSet(path=path, regions=regions, series_uid=series)


def _read_regions(content: Dataset, path: Path) -> tuple[Region, ...]:
    contours = {
        int(item.ReferencedROINumber): item for item in content.get("ROIContourSequence") or ()
    }
    regions = []
    for roi in content.get("StructureSetROISequence") or ():
        item = contours.get(int(roi.ROINumber))
        name = str(roi.get("ROIName", ""))
        frame = roi.get("ReferencedFrameOfReferenceUID")
        found: tuple[Points, ...] = ()
        fault = None
        try:
            found = () if item is None else _read_contours(item, name, path)
        except InputError as error:
            fault = error
        regions.append(
            Region(
                name=name,
                frame_of_reference_uid=None if frame is None else str(frame),
                contours_mm=found,
                fault=fault,
            )
        )
    return tuple(regions)


def rasterise(
    structures: StructureSet,
    name: str,
    *,
    geometry: Geometry,
    frame_of_reference_uid: str | None,
) -> Mask:
    """Rasterise one region onto a CT grid.

    Args:
        structures: The structure set.
        name: Name of the region.
        geometry: The CT's grid in patient space.
        frame_of_reference_uid: The CT's frame of reference; None when the CT states none.

    Returns:
        (slice, row, column) mask, True where the voxel's centre is inside.

    Raises:
        InputError: When the name is unknown, the frames of reference differ, a contour is
            malformed, not on one slice of the grid or leaves it, or the region holds no voxel
            centre.
    """
    region = structures.region(name)
    if region.fault is not None:
        raise region.fault
    if region.frame_of_reference_uid != frame_of_reference_uid:
        raise InputError(
            f"{name!r} refers to frame of reference {region.frame_of_reference_uid}, "
            f"the CT has {frame_of_reference_uid}",
            path=structures.path,
            mend="give the CT series that it was drawn on",
        )
    mask = np.zeros(geometry.shape, dtype=np.bool_)
    by_slice: dict[int, list[Mask]] = {}
    for points_mm in region.contours_mm:
        z, polygon = _on_slice(points_mm, geometry, name, structures.path)
        by_slice.setdefault(z, []).append(fill_polygon(polygon, mask.shape[1:]))
    for z, parts in by_slice.items():
        _warn_of_partial_overlap(parts, z, name)
        mask[z] = np.logical_xor.reduce(parts)
    if not mask.any():
        raise InputError(f"{name!r} holds no voxel centre of the CT", path=structures.path)
    _warn_of_gaps(sorted(by_slice), name)
    return mask


def fill_polygon(vertices: Points, shape: tuple[int, int]) -> Mask:
    """Mark the voxel centres inside a closed polygon, by the even-odd rule.

    Args:
        vertices: (n, 2) column and row positions in voxels; voxel (r, c) has its centre at (c, r).
            The last vertex is joined to the first.
        shape: (rows, columns) of the result; what lies outside is cut off.

    Returns:
        (rows, columns) mask. A centre on an edge is inside when the polygon lies to its right or
        below it (in the direction of growing indices).
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), dtype=np.uint8)
    closed = np.concatenate([vertices, vertices[:1]])
    for (x0, y0), (x1, y1) in pairwise(closed):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        crossed = np.arange(max(int(np.ceil(y0)), 0), min(int(np.ceil(y1)), rows))
        x = x0 + (crossed - y0) * ((x1 - x0) / (y1 - y0))
        first_inside = np.clip(np.ceil(x), 0, columns).astype(np.intp)
        toggles[crossed, first_inside] ^= 1
    inside: Mask = np.bitwise_xor.accumulate(toggles, axis=1)[:, :columns].astype(np.bool_)
    return inside


def _series_of(content: Dataset) -> str | None:
    named = {
        str(series.SeriesInstanceUID)
        for frame in content.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for series in study.get("RTReferencedSeriesSequence") or ()
        if series.get("SeriesInstanceUID")
    }
    return named.pop() if len(named) == 1 else None


def _read_contours(item: Dataset, name: str, path: Path) -> tuple[Points, ...]:
    contours = []
    for number, contour in enumerate(item.get("ContourSequence") or (), start=1):
        where = f"contour {number} of {name!r}"
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in _CLOSED_TYPES:
            known = kind if kind in _OTHER_TYPES else "unknown"
            raise InputError(
                f"{where} is of type {known}; only closed planar ones enclose voxels",
                path=path,
                mend="export closed contours",
            )
        data = np.asarray(contour.get("ContourData") or (), dtype=np.float64)
        if data.size == 0 or data.size % 3 or not np.isfinite(data).all():
            raise InputError(
                f"{where} has {data.size} coordinates, not finite (x, y, z) triplets", path=path
            )
        stated = contour.get("NumberOfContourPoints")
        if stated is not None and int(stated) != data.size // 3:
            raise InputError(
                f"{where} has {data.size // 3} points and says that it has {int(stated)}",
                path=path,
                mend=RE_COPY,
            )
        contours.append(data.reshape(-1, 3))
    return tuple(contours)


def _on_slice(points_mm: Points, geometry: Geometry, name: str, path: Path) -> tuple[int, Points]:
    """Return a contour's slice index and its (column, row) positions in voxels."""
    indices = geometry.index_xyz(points_mm)
    depth = indices[:, 2]
    z = round(float(np.median(depth)))
    distance = float(np.abs(depth - z).max())
    at = f"a contour of {name!r} at {np.array2string(points_mm[0], precision=2)} mm"
    if distance > OFF_SLICE_TOLERANCE:
        raise InputError(
            f"{at} lies {distance:.2f} slice spacings off the nearest slice",
            path=path,
            mend="give the CT series that it was drawn on",
        )
    columns, rows, slices = geometry.size_xyz
    low, high = indices[:, :2].min(axis=0), indices[:, :2].max(axis=0)
    outside = (low < -0.5).any() or high[0] > columns - 0.5 or high[1] > rows - 0.5
    if not 0 <= z < slices or outside:
        raise InputError(
            f"{at} lies outside the CT of {columns} x {rows} x {slices} voxels",
            path=path,
            mend="give the whole CT series that it was drawn on",
        )
    return z, indices[:, :2]


def _warn_of_partial_overlap(parts: list[Mask], z: int, name: str) -> None:
    for first, second in combinations(parts, 2):
        common = np.count_nonzero(first & second)
        if common and common < min(np.count_nonzero(first), np.count_nonzero(second)):
            log.warning("%s: contours cross on slice %d; their overlap counts as outside", name, z)


def _warn_of_gaps(slices: list[int], name: str) -> None:
    missing = sorted(set(range(slices[0], slices[-1] + 1)) - set(slices))
    if missing:
        log.warning("%s: no contour on slices %s between others", name, missing)
