"""NIfTI-1 files, read to the last byte and written deterministically.

The format is small enough to read without a library, and reading it here closes the two holes that
the common readers leave open: the gzip checksum is verified on the whole stream, and the length is
compared with the header. The grid of a sound file equals SimpleITK's. Header fields that can hold
names or dates (descrip, aux_file, db_name, intent_name) are never passed on.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io.grids import grid_from_affine
from samcancer.volume_io.volume import RawVolume, ReadOptions

AFFINE_TOLERANCE_MM = 1e-3
"""Largest distance between corners under qform and sform that count as the same."""

GZIP_LEVEL = 4
"""Compression of written files: within 5 % of level 9 on masks, several times faster."""

_ByteOrder = Literal["<", ">"]

_HEADER_BYTES = 348

_VOXEL_OFFSET = 352
"""Where voxels start in a file without extensions."""

_RE_COPY = "re-copy the file"

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_VOXEL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
"""NIfTI datatype code -> numpy type; colours and complex numbers have other codes."""

_HEADER = np.dtype(
    [
        ("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"),
        ("session_error", "i2"), ("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", (8,)),
        ("intent_p", "f4", (3,)), ("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"),
        ("slice_start", "i2"), ("pixdim", "f4", (8,)), ("vox_offset", "f4"), ("scl_slope", "f4"),
        ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
        ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"),
        ("glmax", "i4"), ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"),
        ("qform_code", "i2"), ("sform_code", "i2"), ("quatern", "f4", (3,)),
        ("qoffset", "f4", (3,)), ("srow", "f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
    ]
)  # fmt: skip
"""The 348 bytes of a NIfTI-1 header, little endian."""


def read_nifti(path: Path, options: ReadOptions) -> RawVolume:
    """Read a .nii or .nii.gz file.

    Raises:
        InputError: When the file is damaged, is not one 3-D volume of real numbers, or its grid is
            doubtful and ``options`` do not decide.
    """
    try:
        with _open(path) as stream:
            header, order = _parse_header(stream.read(_HEADER_BYTES), path)
            size = _require_one_volume(header, path)
            stored = _read_voxels(stream, header, order, size, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=path, mend=_RE_COPY
        ) from None
    affine, warnings = _choose_affine(header, size, path, options)
    geometry, straightened = grid_from_affine(
        affine, size, path=path, nearest_rotation=options.nearest_rotation
    )
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
        reference: NIfTI file whose grid fields are copied bit for bit.
    """
    header = _new_header(geometry) if reference is None else _grid_header_of(reference)
    kind = values.dtype.str[1:]
    header["datatype"] = next(code for code, name in _VOXEL_TYPES.items() if name == kind)
    header["bitpix"] = 8 * values.dtype.itemsize
    content = header.tobytes() + bytes(_VOXEL_OFFSET - _HEADER_BYTES)
    voxels = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    with path.open("wb") as raw:
        if not _is_packed(path):
            raw.write(content)
            raw.write(voxels.data)
            return
        with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed:
            packed.write(content)
            packed.write(voxels.data)


def _open(path: Path) -> BinaryIO:
    """Open for reading, through gzip where the name ends so."""
    return cast(BinaryIO, gzip.open(path)) if _is_packed(path) else path.open("rb")


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _parse_header(data: bytes, path: Path) -> tuple[Any, _ByteOrder]:
    """Return the header record in native order and the file's byte order, '<' or '>'."""
    if len(data) < _HEADER_BYTES:
        raise InputError(f"ends inside its header ({len(data)} bytes)", path=path, mend=_RE_COPY)
    orders: tuple[_ByteOrder, ...] = ("<", ">")
    for order in orders:
        header = np.frombuffer(data, _HEADER.newbyteorder(order))[0]
        if header["sizeof_hdr"] == _HEADER_BYTES:
            break
    else:
        raise InputError("has no NIfTI-1 header", path=path, mend="convert it to NIfTI-1")
    if header["magic"] != b"n+1":
        raise InputError(
            "keeps its header and its voxels in two files", path=path, mend="convert it to .nii.gz"
        )
    return header.astype(_HEADER), order


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
    stream: BinaryIO, header: Any, order: _ByteOrder, size: tuple[int, int, int], path: Path
) -> NDArray[Any]:
    offset = float(header["vox_offset"])
    dtype = np.dtype(_VOXEL_TYPES[int(header["datatype"])]).newbyteorder(order)
    expected = math.prod(size) * dtype.itemsize
    skip = int(offset) - _HEADER_BYTES if math.isfinite(offset) else -1
    if skip < 0 or len(stream.read(skip)) < skip:
        raise InputError(f"its voxels start at byte {offset:g}", path=path, mend=_RE_COPY)
    if _is_packed(path):
        _require_plausible_size(path, expected)
    try:
        buffer = bytearray(expected)
    except MemoryError:
        raise InputError(
            f"its header asks for {expected} bytes", path=path, mend=_RE_COPY
        ) from None
    view, filled = memoryview(buffer), 0
    while filled < expected and (count := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += count
    surplus = len(stream.read(1))
    if filled < expected or surplus:
        problem = "more" if surplus else f"{filled}"
        raise InputError(
            f"holds {problem} voxel bytes where its header says {expected}",
            path=path,
            mend=_RE_COPY,
        )
    return np.frombuffer(buffer, dtype).reshape(size[::-1])


def _require_plausible_size(path: Path, expected: int) -> None:
    """Refuse a header that asks for more than gzip could have packed, before allocating it."""
    most = 1032 * path.stat().st_size
    if expected > most:
        raise InputError(
            f"its header asks for {expected} bytes, more than the file can hold",
            path=path,
            mend=_RE_COPY,
        )


def _rescale(stored: NDArray[Any], header: Any, path: Path) -> tuple[NDArray[Any], bool]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if (
        slope == 0
        or (slope == 1 and intercept == 0)
        or (math.isnan(slope) and math.isnan(intercept))
    ):
        return stored, False
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InputError(f"its rescale is {slope:g} x + {intercept:g}", path=path, mend=_RE_COPY)
    return stored.astype(np.float64) * slope + intercept, True


def _choose_affine(
    header: Any, size: tuple[int, int, int], path: Path, options: ReadOptions
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    affines = {}
    if int(header["qform_code"]) > 0:
        affines["qform"] = _LPS_FROM_RAS @ _qform(header, path)
    if int(header["sform_code"]) > 0:
        affines["sform"] = _LPS_FROM_RAS @ np.vstack(
            [header["srow"].astype(np.float64), [0, 0, 0, 1]]
        )
    if not affines:
        spacing = header["pixdim"][1:4].astype(np.float64)
        return np.diag([*spacing, 1.0]), ("the header gives no orientation: taken as LPS",)
    if options.affine is not None:
        if options.affine not in affines:
            raise InputError(
                f"has no {options.affine}", path=path, mend=f"use --affine {next(iter(affines))}"
            )
        return affines[options.affine], ()
    if len(affines) == 2:
        apart_mm = _corner_distance_mm(affines["qform"], affines["sform"], size)
        if not apart_mm <= AFFINE_TOLERANCE_MM:
            raise InputError(
                f"its qform and sform put corners {apart_mm:.4g} mm apart",
                path=path,
                mend="choose one with --affine qform or --affine sform",
            )
    return next(iter(affines.values())), ()


def _corner_distance_mm(
    one: NDArray[np.float64], other: NDArray[np.float64], size: tuple[int, int, int]
) -> float:
    corners = np.stack(np.meshgrid(*[[0, v - 1] for v in size], [1], indexing="ij"), -1).reshape(
        -1, 4
    )
    return float(np.abs(corners @ (one - other).T).max())


def _qform(header: Any, path: Path) -> NDArray[np.float64]:
    """The 4 x 4 index-to-RAS matrix of the quaternion (nifti1.h, method 2)."""
    b, c, d = (float(v) for v in header["quatern"])
    left = 1.0 - (b * b + c * c + d * d)
    if not left >= -1e-5:
        raise InputError("its qform is not a rotation", path=path, mend="use --affine sform")
    a = math.sqrt(max(left, 0.0))
    if left < 1e-7:
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    handed = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * (header["pixdim"][1:4].astype(np.float64) * [1.0, 1.0, handed])
    affine[:3, 3] = header["qoffset"]
    return affine


def _new_header(geometry: Geometry) -> Any:
    header = np.zeros((), _HEADER)
    header["sizeof_hdr"] = _HEADER_BYTES
    header["magic"] = b"n+1"
    header["dim"] = [3, *geometry.size_xyz, 1, 1, 1, 1]
    header["vox_offset"] = _VOXEL_OFFSET
    header["scl_slope"] = 1
    header["xyzt_units"] = 2  # millimetres
    header["qform_code"] = header["sform_code"] = 1
    affine = np.eye(4)
    affine[:3, :3] = geometry.axes_mm
    affine[:3, 3] = geometry.origin_mm
    affine = _LPS_FROM_RAS @ affine
    rotation = affine[:3, :3] / geometry.spacing_mm
    handed = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    header["pixdim"] = [handed, *geometry.spacing_mm, 0, 0, 0, 0]
    header["quatern"] = _quaternion(rotation * [1.0, 1.0, handed])
    header["qoffset"] = affine[:3, 3]
    header["srow"] = affine[:3]
    return header


def _quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float]:
    """Components (b, c, d) of the unit quaternion of a proper rotation, with a >= 0."""
    trace = np.array([rotation.trace(), *np.diag(rotation)])
    m = rotation
    table = np.array(
        [
            [1 + trace[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, 1 + 2 * m[0, 0] - trace[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, 1 + 2 * m[1, 1] - trace[0], m[1, 2] + m[2, 1]],
            [0, 0, 0, 1 + 2 * m[2, 2] - trace[0]],
        ]
    )
    table = table + np.triu(table, 1).T
    largest = int(np.argmax(np.diag(table)))
    q = table[largest] / np.linalg.norm(table[largest])
    q = q if q[0] >= 0 else -q
    return (float(q[1]), float(q[2]), float(q[3]))


def _grid_header_of(reference: Path) -> Any:
    """A fresh header with the reference's dimensions and both of its affines."""
    with _open(reference) as stream:
        source, _ = _parse_header(stream.read(_HEADER_BYTES), reference)
    header = np.zeros((), _HEADER)
    for name in ("sizeof_hdr", "pixdim", "qform_code", "sform_code", "quatern", "qoffset", "srow",
                 "xyzt_units", "magic"):  # fmt: skip
        header[name] = source[name]
    header["pixdim"][4:] = 0
    header["dim"] = [3, *source["dim"][1:4], 1, 1, 1, 1]
    header["vox_offset"] = _VOXEL_OFFSET
    header["scl_slope"] = 1
    return header
