"""NIfTI-1 files, read to the last byte and written deterministically.

The format is small enough to read without a library, and reading it here closes the two holes that
the common readers leave open: the gzip checksum is verified on the whole stream, and the length is
compared with the header. The grid of a sound file equals SimpleITK's. Header fields that can hold
names or dates (descrip, aux_file, db_name, intent_name) are never passed on.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io.grids import grid_from_affine
from samcancer.volume_io.gzip_stream import (
    BLOCK_BYTES,
    DAMAGED,
    DEFLATE_MAX_RATIO,
    open_gzip,
    write_gzip,
)
from samcancer.volume_io.nifti_header import (
    HEADER_BYTES,
    RE_COPY,
    VOXEL_OFFSET,
    ByteOrder,
    affine_lps,
    grid_header_of,
    new_header,
    parse_header,
    stated_spacing,
)
from samcancer.volume_io.volume import RawVolume, ReadOptions

_MAX_SIZE = 32767
"""Most voxels along an axis: the header counts in int16."""

_MAX_EXTENSION_BYTES = 1 << 26
"""Most bytes between header and voxels; real extensions are far smaller."""

_VOXEL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
"""NIfTI datatype code -> numpy type; colours and complex numbers have other codes."""


def read_nifti(path: Path, options: ReadOptions) -> RawVolume:
    """Read a .nii or .nii.gz file.

    Raises:
        InputError: When the file is damaged, is not one 3-D volume of real numbers, or its grid is
            doubtful and ``options`` do not decide.
    """
    try:
        with _open(path) as stream:
            header, order = parse_header(stream.read(HEADER_BYTES), path)
            size = _require_one_volume(header, path)
            stored = _read_voxels(stream, header, order, size, path)
    except DAMAGED as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=path, mend=RE_COPY
        ) from None
    affine, warnings = affine_lps(header, size, path, options)
    geometry, straightened = grid_from_affine(
        affine, size, path=path, nearest_rotation=options.nearest_rotation
    )
    geometry = replace(geometry, spacing_mm=stated_spacing(header, geometry.spacing_mm))
    values, rescaled = _rescale(stored, header, path)
    return RawVolume(values, geometry, rescaled, (*warnings, *straightened))


def write_nifti(
    path: Path, values: NDArray[Any], geometry: Geometry, *, reference: Path | None = None
) -> None:
    """Write a volume; the same input gives the same bytes.

    Args:
        path: .nii or .nii.gz; not atomic, the caller's concern.
        values: (Z, Y, X) of a dtype NIfTI knows.
        geometry: Grid, unless ``reference`` is given.
        reference: NIfTI file of the same size whose grid fields are copied bit for bit.

    Raises:
        InputError: When the volume is too large for the format or of another size than the
            reference.
    """
    if max(geometry.size_xyz) > _MAX_SIZE:
        raise InputError(f"its size {geometry.size_xyz} is beyond NIfTI-1", path=path,
                         mend="choose .mha or .nrrd")  # fmt: skip
    header = new_header(geometry)
    if reference is not None:
        header = _header_like(reference, geometry)
    kind = values.dtype.str[1:]
    header["datatype"] = next(code for code, name in _VOXEL_TYPES.items() if name == kind)
    header["bitpix"] = 8 * values.dtype.itemsize
    content = header.tobytes() + bytes(VOXEL_OFFSET - HEADER_BYTES)
    voxels = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    if _is_packed(path):
        write_gzip(path, (content, voxels.data))
        return
    with path.open("wb") as plain:
        plain.write(content)
        plain.write(voxels.data)


def _open(path: Path) -> BinaryIO:
    """Open for reading, through gzip where the name ends so."""
    return open_gzip(path) if _is_packed(path) else path.open("rb")


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _header_like(reference: Path, geometry: Geometry) -> Any:
    try:
        with _open(reference) as stream:
            source, _ = parse_header(stream.read(HEADER_BYTES), reference)
    except DAMAGED as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=reference, mend=RE_COPY
        ) from None
    header = grid_header_of(source)
    found = tuple(int(v) for v in header["dim"][1:4])
    if found != geometry.size_xyz:
        raise InputError(f"its size {found} is not the mask's {geometry.size_xyz}", path=reference,
                         mend="name the scan that the mask belongs to")  # fmt: skip
    return header


def _require_one_volume(header: Any, path: Path) -> tuple[int, int, int]:
    dim = [int(v) for v in header["dim"]]
    count = dim[0]
    if int(header["datatype"]) not in _VOXEL_TYPES:
        raise InputError(
            f"its voxels are of NIfTI type {int(header['datatype'])} (colour or complex)",
            path=path,
            mend="save one grey value per voxel",
        )
    if not 3 <= count <= 7 or any(v < 1 for v in dim[1 : count + 1]):
        raise InputError(f"its dimensions are {dim[1 : max(count, 0) + 1]}", path=path,
                         mend="save a 3-D volume")  # fmt: skip
    if any(v != 1 for v in dim[4 : count + 1]):
        raise InputError(
            f"has {count} dimensions, {dim[1 : count + 1]}", path=path, mend="save one 3-D volume"
        )
    return (dim[1], dim[2], dim[3])


def _read_voxels(
    stream: BinaryIO, header: Any, order: ByteOrder, size: tuple[int, int, int], path: Path
) -> NDArray[Any]:
    offset = float(header["vox_offset"])
    if not HEADER_BYTES <= offset <= HEADER_BYTES + _MAX_EXTENSION_BYTES:
        raise InputError(f"its voxels start at byte {offset:g}", path=path, mend=RE_COPY)
    stream.read(int(offset) - HEADER_BYTES)
    dtype = np.dtype(_VOXEL_TYPES[int(header["datatype"])]).newbyteorder(order)
    expected = math.prod(size) * dtype.itemsize
    # Checked before allocating: a damaged header can ask for terabytes.
    most = path.stat().st_size * (DEFLATE_MAX_RATIO if _is_packed(path) else 1)
    if expected > most:
        raise InputError(
            f"its header asks for {expected} bytes, more than the file can hold",
            path=path,
            mend=RE_COPY,
        )
    buffer = _allocate(expected, path)
    view, filled = memoryview(cast(Any, buffer)), 0
    while filled < expected:
        count = stream.readinto(view[filled : filled + BLOCK_BYTES])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    # Reading on to the end is also what makes gzip verify its checksum.
    surplus = len(stream.read(1))
    if filled < expected or surplus:
        problem = "more" if surplus else f"{filled}"
        raise InputError(
            f"holds {problem} voxel bytes where its header says {expected}",
            path=path,
            mend=RE_COPY,
        )
    return buffer.view(dtype).reshape(size[::-1])


def _allocate(count: int, path: Path) -> NDArray[np.uint8]:
    try:
        return np.empty(count, np.uint8)
    except MemoryError:
        raise InputError(
            f"its header asks for {count} bytes, more than the memory",
            path=path,
            mend="re-copy the file or take a larger machine",
        ) from None


def _rescale(stored: NDArray[Any], header: Any, path: Path) -> tuple[NDArray[Any], bool]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if (
        slope == 0
        or (slope == 1 and intercept == 0)
        or (math.isnan(slope) and math.isnan(intercept))
    ):
        return stored, False
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InputError(f"its rescale is {slope:g} x + {intercept:g}", path=path, mend=RE_COPY)
    return stored.astype(np.float64) * slope + intercept, True
