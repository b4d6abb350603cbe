"""MetaImage (.mha) and NRRD files: checked for completeness here, read and written by SimpleITK."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its customary name)
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io.grids import grid_from_affine
from samcancer.volume_io.volume import RawVolume, ReadOptions

_RE_COPY = "re-copy the file"

_RE_SAVE = "save it again"

_SIZE = re.compile("[1-9][0-9]{0,8}")
"""A number of voxels or channels."""

_DEFLATE_MAX_RATIO = 1032
"""Most bytes that one packed byte can stand for."""

_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
"""zlib's code for telling the two by their first bytes."""

_MAX_HEADER_BYTES = 1 << 20

_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}  # fmt: skip

_NRRD_NAMES = {
    1: "signed char, int8, int8_t, uchar, unsigned char, uint8, uint8_t",
    2: "short, short int, signed short, signed short int, int16, int16_t, ushort, unsigned short, "
    "unsigned short int, uint16, uint16_t",
    4: "int, signed int, int32, int32_t, uint, unsigned int, uint32, uint32_t, float",
    8: "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t, ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t, double",
}
"""Bytes per voxel -> every name that the NRRD format gives to such types."""

_NRRD_BYTES = {name: width for width, names in _NRRD_NAMES.items() for name in names.split(", ")}


@dataclass(frozen=True)
class _Layout:
    """What a header says about the bytes behind it."""

    sizes: str
    kind: str
    width: int
    """Bytes per voxel; 0 for an unknown type."""
    packed: bool
    has_spacing: bool


def read_itk(path: Path, options: ReadOptions) -> RawVolume:
    """Read an .mha or .nrrd file.

    Raises:
        InputError: When data is missing or damaged, it is not one 3-D volume of real numbers, or
            its grid is not usable.
    """
    _require_complete(path)
    try:
        image: Any = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"cannot be read ({_last_line(error)})", path=path, mend=_RE_COPY
        ) from None
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"has {image.GetNumberOfComponentsPerPixel()} values per voxel",
            path=path,
            mend="save one grey value per voxel",
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"has {image.GetDimension()} dimensions, {list(image.GetSize())}",
            path=path,
            mend="save one 3-D volume",
        )
    affine = np.eye(4)
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(3, 3)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    geometry, warnings = grid_from_affine(
        affine, image.GetSize(), path=path, nearest_rotation=options.nearest_rotation
    )
    return RawVolume(sitk.GetArrayFromImage(image), geometry, rescaled=False, warnings=warnings)


def write_itk(path: Path, values: NDArray[Any], geometry: Geometry) -> None:
    """Write an .mha or .nrrd file; not atomic, the caller's concern."""
    image: Any = sitk.GetImageFromArray(np.ascontiguousarray(values))
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"writing {path.name} failed ({_last_line(error)})") from None


def _last_line(error: RuntimeError) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1]


def _require_complete(path: Path) -> None:
    """Compare the data's length with the header, through the checksum where it is compressed."""
    head, data = _split(path)
    layout = _meta_layout(head, path) if _is_meta(path) else _nrrd_layout(head, path)
    parts = layout.sizes.split()
    if not layout.width or not parts or not all(_SIZE.fullmatch(part) for part in parts):
        raise InputError(
            f"its header says type {layout.kind!r} and size {layout.sizes!r}",
            path=path,
            mend=_RE_COPY,
        )
    if not layout.has_spacing:
        raise InputError("its header gives no voxel spacing", path=path, mend="save it with one")
    expected = math.prod(int(part) for part in parts) * layout.width
    if layout.packed and expected <= _DEFLATE_MAX_RATIO * len(data):
        found = _unpacked_length(data, expected, path)
    else:
        found = len(data)
    if found != expected:
        kind = "packed" if layout.packed and found == len(data) else "voxel"
        raise InputError(
            f"holds {found} {kind} bytes where its header says {expected}",
            path=path,
            mend=_RE_COPY,
        )


def _is_meta(path: Path) -> bool:
    return path.name.lower().endswith(".mha")


def _split(path: Path) -> tuple[str, bytes]:
    """Return the header's text and the bytes behind it."""
    content = path.read_bytes()
    if _is_meta(path):
        key = content.find(b"ElementDataFile", 0, _MAX_HEADER_BYTES)
        end = content.find(b"\n", key) + 1 if key >= 0 else 0
        if end and content[key:end].split(b"=")[-1].strip() != b"LOCAL":
            raise InputError("keeps its voxels in another file", path=path, mend="save it as .mha")
    else:
        end = content.find(b"\n\n", 0, _MAX_HEADER_BYTES) + 2
        end = 0 if end == 1 else end
    if not end:
        raise InputError("ends inside its header", path=path, mend=_RE_COPY)
    return content[:end].decode("latin-1"), content[end:]


def _meta_layout(head: str, path: Path) -> _Layout:
    fields = _fields(head, "=")
    if fields.get("HeaderSize", "0") not in ("0", "-1"):
        raise InputError(f"its HeaderSize is {fields['HeaderSize']!r}", path=path, mend=_RE_SAVE)
    channels = fields.get("ElementNumberOfChannels", "1")
    kind = fields.get("ElementType", "")
    return _Layout(
        sizes=fields.get("DimSize", ""),
        kind=kind,
        width=_META_BYTES.get(kind, 0) * (int(channels) if _SIZE.fullmatch(channels) else 0),
        packed=fields.get("CompressedData", "False").lower() == "true",
        has_spacing="ElementSpacing" in fields or "ElementSize" in fields,
    )


def _nrrd_layout(head: str, path: Path) -> _Layout:
    fields = _fields(head, ":")
    if "data file" in fields or "datafile" in fields:
        raise InputError("keeps its voxels in another file", path=path, mend="save it as one .nrrd")
    encoding = fields.get("encoding", "")
    if encoding not in ("gzip", "gz", "raw"):
        raise InputError(f"its encoding is {encoding!r}", path=path, mend="save it as gzip")
    kind = fields.get("type", "")
    return _Layout(
        sizes=fields.get("sizes", ""),
        kind=kind,
        width=_NRRD_BYTES.get(kind, 0),
        packed=encoding != "raw",
        has_spacing="space directions" in fields or "spacings" in fields,
    )


def _fields(head: str, separator: str) -> dict[str, str]:
    pairs = (line.split(separator, 1) for line in head.splitlines() if separator in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _unpacked_length(data: bytes, expected: int, path: Path) -> int:
    """Length of the unpacked stream, never unpacking much more than the header says."""
    stream = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        length = len(stream.decompress(data, expected + 1))
        if not stream.eof and length <= expected:
            length += len(stream.flush())
    except zlib.error as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=path, mend=_RE_COPY
        ) from None
    if not stream.eof and length <= expected:
        raise InputError("the compressed data is cut short", path=path, mend=_RE_COPY)
    return length
