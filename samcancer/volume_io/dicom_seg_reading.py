"""DICOM Segmentation objects: one mask per segment, on the grid of the CT or not at all.

Where a frame lies is stated frame by frame (PS3.3 C.8.20 and C.7.6.16), so frames may come in any
order, empty ones may be left out, and rows and columns may run along any axes of the CT's voxels,
flipped or not. A frame that does not fall on voxels is refused; nothing is resampled. Of the file
only segment labels, codes, UIDs and numbers are ever taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from samcancer.errors import InputError
from samcancer.geometry import SAME_GRID_TOLERANCE_MM, SAME_GRID_TOLERANCE_VOXELS, Geometry
from samcancer.volume_io.dicom_files import (
    DAMAGE,
    RE_COPY,
    RE_EXPORT,
    TRANSFER_SYNTAX,
    needs_own_process,
    numbers_of,
    quiet_pydicom,
    refuse_pixels,
    whole_number_of,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OFF_SLICE_TOLERANCE = 0.05
"""How far a frame may lie from its voxels across the slices, in slice spacings: slices of a CT need
not be spaced more evenly than that, and frames repeat their positions."""

BINARY, FRACTIONAL, LABELMAP = "BINARY", "FRACTIONAL", "LABELMAP"
"""Values of SegmentationType."""

_MODALITY = "SEG"

_TAGS = (
    "Modality", "SegmentationType", "SegmentSequence", "FrameOfReferenceUID",
    "ReferencedSeriesSequence", "MaximumFractionalValue", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData",
)  # fmt: skip
"""Every element that is read of a file."""

_SNOMED_CT = "SCT"
"""CodingSchemeDesignator of SNOMED CT."""

_STEP_TOLERANCE = 1e-3
"""Largest departure of a frame's pixel axes from axes of the voxels; far ends are checked in mm."""

_MEND_GRID = "resample it onto the CT's grid, or give the CT series that it was drawn on"


@dataclass(frozen=True)
class Segment:
    """One segment as described in the file's header."""

    number: int
    label: str
    snomed: str | None = None
    """SNOMED CT code of the kind of tissue (its property type); None where there is none."""
    region_snomed: str | None = None
    """SNOMED CT code of the anatomic region it lies in; None where there is none."""


@dataclass(frozen=True)
class _Frame:
    """Where the pixels of one frame lie, as DICOM says it."""

    index: int
    segment: int | None
    """None in a label map, whose pixels say it."""
    position_mm: NDArray[np.float64]
    """Centre of the first pixel, LPS."""
    steps_mm: NDArray[np.float64]
    """(2, 3): to the next row, to the next column."""


@dataclass(frozen=True)
class Segmentation:
    """What one file says; pixels are decoded when a mask is asked for."""

    path: Path
    segments: tuple[Segment, ...]
    kind: str
    """BINARY, FRACTIONAL or LABELMAP."""
    frame_of_reference_uid: str | None
    series_uid: str | None
    """Series it was drawn on; None where the file does not name exactly one."""
    shape: tuple[int, int]
    """Rows and columns of a frame."""
    _frames: tuple[_Frame, ...] = field(repr=False)
    _content: Dataset = field(repr=False)
    _threshold: float | None = None

    def mask(self, number: int, geometry: Geometry) -> NDArray[np.bool_]:
        """Return where a segment is on a grid.

        Args:
            number: Of the segment.
            geometry: The grid, such as the CT's.

        Returns:
            (Z, Y, X) mask; frames that the file leaves out are empty.

        Raises:
            InputError: When there is no such segment, a frame does not lie on voxels of the grid,
                a marked pixel lies outside of it, or pixels cannot be decoded.
        """
        if number not in {segment.number for segment in self.segments}:
            listed = ", ".join(str(segment.number) for segment in self.segments)
            raise InputError(f"has no segment {number}, only {listed or 'none'}", path=self.path)
        mask = np.zeros(geometry.shape, np.bool_)
        places: set[tuple[int, ...]] = set()
        frames = [f for f in self._frames if f.segment in (number, None)]
        for frame, pixels in zip(frames, self._pixels(frames), strict=True):
            lattice = _voxels_of(frame, geometry, self)
            if (place := tuple(int(v) for v in lattice.ravel())) in places:
                raise InputError(
                    f"segment {number} has two frames at the same position",
                    path=self.path,
                    mend=RE_EXPORT,
                )
            places.add(place)
            first, row_step, column_step = lattice
            rows, columns = np.nonzero(self._chosen(pixels, number))
            voxels = first + rows[:, None] * row_step + columns[:, None] * column_step
            _require_inside(voxels, geometry, frame, self.path)
            mask[voxels[:, 2], voxels[:, 1], voxels[:, 0]] = True
        return mask

    def _pixels(self, frames: Sequence[_Frame]) -> Iterator[NDArray[Any]]:
        """Decode frames one by one, (rows, columns) each."""
        syntax = getattr(self._content.file_meta, TRANSFER_SYNTAX, None)
        if frames and needs_own_process(syntax):
            from samcancer.volume_io.dicom_worker import decoding_process

            with decoding_process() as process:
                yield from process.frames(self.path, [frame.index for frame in frames])
            return
        for frame in frames:
            yield _decode(self._content, frame.index, self.path)

    def _chosen(self, pixels: NDArray[Any], number: int) -> NDArray[np.bool_]:
        if self.kind == LABELMAP:
            chosen: NDArray[np.bool_] = pixels == number
            return chosen
        if self._threshold is None:
            return pixels.astype(np.bool_)
        # MaximumFractionalValue stands for a share of 1.
        highest = float(self._content.MaximumFractionalValue)
        return np.asarray(pixels >= self._threshold * highest)


def read_segmentation(path: Path, *, threshold: float | None = None) -> Segmentation:
    """Read the header of a DICOM Segmentation; pixels stay packed until a mask is asked for.

    Args:
        path: The file.
        threshold: Share, over 0 to 1, from which a pixel of a FRACTIONAL segmentation is inside;
            None refuses such files.

    Raises:
        InputError: When the file is not a segmentation, is damaged, fractional, or does not say
            where its frames lie.
    """
    content = _read(path)
    kind = str(content.get("SegmentationType", ""))
    if kind not in (BINARY, FRACTIONAL, LABELMAP):
        raise InputError("its SegmentationType is none that is known", path=path, mend=RE_EXPORT)
    if kind != FRACTIONAL:
        threshold = None
    elif threshold is None:
        raise InputError(
            "is a fractional segmentation: its pixels are shares, not yes or no",
            path=path,
            mend="export it as binary, or choose the share that counts with --seg-threshold",
        )
    elif whole_number_of(_values(content, "MaximumFractionalValue"), "MaximumFractionalValue",
                         path) in (None, 0):  # fmt: skip
        raise InputError("has no MaximumFractionalValue", path=path, mend=RE_EXPORT)
    try:
        with quiet_pydicom():
            segments = tuple(_segment(item, path) for item in content.get("SegmentSequence") or ())
            frames = _frames(content, kind, path)
            shape = _shape(content, path)
            frame_of_reference, series = content.get("FrameOfReferenceUID"), _series_of(content)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"its DICOM header is damaged ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None
    numbers = Counter(segment.number for segment in segments)
    double = sorted(number for number, count in numbers.items() if count > 1)
    stray = sorted({f.segment for f in frames if f.segment is not None} - set(numbers))
    if double or stray:
        fact = f"describes segment {double[0]} twice" if double else ""
        fact = fact or f"has frames of segment {stray[0]}, which it does not describe"
        raise InputError(fact, path=path, mend=RE_EXPORT)
    return Segmentation(
        path=path,
        segments=tuple(s for s in segments if s.number > 0),
        kind=kind,
        frame_of_reference_uid=str(frame_of_reference) if frame_of_reference else None,
        series_uid=series,
        shape=shape,
        _frames=frames,
        _content=content,
        _threshold=threshold,
    )


def decode_frames(path: Path, indices: Sequence[int]) -> NDArray[Any]:
    """Return (n, rows, columns): some frames of a segmentation, as stored.

    Raises:
        InputError: When they cannot be decoded.
    """
    content = _read(path)
    return np.stack([_decode(content, index, path) for index in indices])


def _decode(content: Dataset, index: int, path: Path) -> NDArray[Any]:
    syntax: Any = None
    try:
        with quiet_pydicom():
            syntax = content.file_meta.TransferSyntaxUID
            if content.BitsAllocated == 1 and not syntax.is_encapsulated:
                return _bits(content, index)
            return get_decoder(syntax).as_array(content, index=index, raw=True)[0]
    except DAMAGE as error:
        refuse_pixels(error, syntax, path)


def _bits(content: Dataset, index: int) -> NDArray[np.uint8]:
    """Unpack a frame of single bits; frames follow one another within a byte (PS3.5 8.1.1)."""
    rows, columns = int(content.Rows), int(content.Columns)
    first = index * rows * columns
    last = first + rows * columns
    packed = np.frombuffer(content.PixelData, np.uint8)[first // 8 : -(-last // 8)]
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: rows * columns]
    return bits.reshape(rows, columns)


def _voxels_of(frame: _Frame, geometry: Geometry, segmentation: Segmentation) -> NDArray[np.intp]:
    """Return (3, 3): voxel (x, y, z) of a frame's first pixel, steps to the next row and column.

    Raises:
        InputError: When the pixels do not fall on voxels, naming the distance.
    """
    path, (rows, columns) = segmentation.path, segmentation.shape
    steps = frame.steps_mm @ np.linalg.inv(geometry.axes_mm).T
    whole = np.rint(steps)
    if (np.abs(whole).sum(axis=1) != 1).any() or (np.abs(steps - whole) > _STEP_TOLERANCE).any():
        pixel_mm = np.linalg.norm(frame.steps_mm, axis=1)
        raise InputError(
            f"frame {frame.index + 1} has pixels of {pixel_mm[0]:.4g} x {pixel_mm[1]:.4g} mm along "
            f"axes that are not those of the CT's voxels of {_by(geometry.spacing_mm)} mm",
            path=path,
            mend=_MEND_GRID,
        )
    ends = np.array([(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)])
    corners_mm = frame.position_mm + ends @ frame.steps_mm
    lattice = np.rint(geometry.index_xyz(frame.position_mm)) + ends @ whole
    off_mm = np.abs((geometry.index_xyz(corners_mm) - lattice) * geometry.spacing_mm).max(axis=0)
    allowed_mm = np.full(
        3, min(SAME_GRID_TOLERANCE_MM, SAME_GRID_TOLERANCE_VOXELS * min(geometry.spacing_mm))
    )
    allowed_mm[2] = OFF_SLICE_TOLERANCE * geometry.slice_spacing_mm
    if (off_mm > allowed_mm).any():
        axis = int(np.argmax(off_mm / allowed_mm))
        raise InputError(
            f"frame {frame.index + 1} lies {off_mm[axis]:.4g} mm off the CT's voxels "
            f"(allowed {allowed_mm[axis]:.2g})",
            path=path,
            mend=_MEND_GRID,
        )
    return np.stack([lattice[0], whole[0], whole[1]]).astype(np.intp)


def _require_inside(
    voxels: NDArray[np.intp], geometry: Geometry, frame: _Frame, path: Path
) -> None:
    outside = ((voxels < 0) | (voxels >= np.array(geometry.size_xyz))).any(axis=1)
    if outside.any():
        raise InputError(
            f"frame {frame.index + 1} marks {np.count_nonzero(outside)} pixels outside of the CT "
            f"of {_by(geometry.size_xyz)} voxels",
            path=path,
            mend="give the whole CT series that it was drawn on",
        )


def _by(numbers: Iterable[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in numbers)


def _read(path: Path) -> Dataset:
    """Read the elements of _TAGS."""
    try:
        with quiet_pydicom():
            content = pydicom.dcmread(path, specific_tags=list(_TAGS))
            modality = content.get("Modality")
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="check the path") from None
    except InvalidDicomError:
        raise InputError("is not DICOM", path=path, mend=RE_COPY) from None
    except DAMAGE as error:
        raise InputError(
            f"its DICOM header is damaged ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None
    if modality != _MODALITY:
        raise InputError(
            "is DICOM but no segmentation (SEG)", path=path, mend="give the segmentation"
        )
    return content


def _segment(item: Dataset, path: Path) -> Segment:
    number = whole_number_of(_values(item, "SegmentNumber"), "SegmentNumber", path)
    if number is None:
        raise InputError("a segment has no number", path=path, mend=RE_EXPORT)
    return Segment(
        number=number,
        label=str(item.get("SegmentLabel") or ""),
        snomed=_snomed(item, "SegmentedPropertyTypeCodeSequence"),
        region_snomed=_snomed(item, "AnatomicRegionSequence"),
    )


def _snomed(item: Dataset, name: str) -> str | None:
    for code in item.get(name) or ():
        value = code.get("CodeValue") or code.get("LongCodeValue")
        if value and code.get("CodingSchemeDesignator") == _SNOMED_CT:
            return str(value)
    return None


def _series_of(content: Dataset) -> str | None:
    named = {
        str(item.SeriesInstanceUID)
        for item in content.get("ReferencedSeriesSequence") or ()
        if item.get("SeriesInstanceUID")
    }
    return named.pop() if len(named) == 1 else None


def _shape(content: Dataset, path: Path) -> tuple[int, int]:
    rows, columns = (int(numbers_of(_values(content, name), name, 1, path)[0])
                     for name in ("Rows", "Columns"))  # fmt: skip
    return rows, columns


def _frames(content: Dataset, kind: str, path: Path) -> tuple[_Frame, ...]:
    shared = next(iter(content.get("SharedFunctionalGroupsSequence") or ()), None)
    groups = list(content.get("PerFrameFunctionalGroupsSequence") or ())
    count = whole_number_of(_values(content, "NumberOfFrames"), "NumberOfFrames", path) or 1
    if len(groups) != count:
        raise InputError(
            f"has {count} frames and says of {len(groups)} where they lie",
            path=path,
            mend=RE_EXPORT,
        )
    frames = []
    for index, group in enumerate(groups):

        def values(sequence: str, name: str, own: Dataset = group) -> dict[str, Any]:
            found = next((g.get(sequence) for g in (own, shared) if g and g.get(sequence)), None)
            return _values(found[0], name) if found else {name: None}

        position_mm = numbers_of(
            values("PlanePositionSequence", "ImagePositionPatient"),
            "ImagePositionPatient", 3, path,
        )  # fmt: skip
        cosines = numbers_of(
            values("PlaneOrientationSequence", "ImageOrientationPatient"),
            "ImageOrientationPatient", 6, path,
        ).reshape(2, 3)  # fmt: skip
        pixel_mm = numbers_of(
            values("PixelMeasuresSequence", "PixelSpacing"), "PixelSpacing", 2, path
        )
        segment = None
        if kind != LABELMAP:
            name = "ReferencedSegmentNumber"
            segment = whole_number_of(values("SegmentIdentificationSequence", name), name, path)
            if segment is None:
                raise InputError(f"frame {index + 1} names no segment", path=path, mend=RE_EXPORT)
        # PixelSpacing: between rows, between columns; cosines: along a row, along a column.
        steps_mm = np.stack([cosines[1] * pixel_mm[0], cosines[0] * pixel_mm[1]])
        frames.append(_Frame(index, segment, position_mm, steps_mm))
    return tuple(frames)


def _values(content: Dataset, name: str) -> dict[str, Any]:
    return {name: content.get(name)}
