"""MetaImage (.mha) and NRRD files: checked for completeness here, read and written by SimpleITK."""

from __future__ import annotations

import gzip
import math
import zlib
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

_MAX_HEADER_BYTES = 1 << 20

_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}  # fmt: skip

_NRRD_BYTES = {
    "signed char": 1, "int8": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "short": 2,
    "int16": 2, "ushort": 2, "unsigned short": 2, "uint16": 2, "int": 4, "int32": 4, "uint": 4,
    "unsigned int": 4, "uint32": 4, "longlong": 8, "long long": 8, "int64": 8, "ulonglong": 8,
    "unsigned long long": 8, "uint64": 8, "float": 4, "double": 8,
}  # fmt: skip


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
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot be read ({reason})", path=path, mend=_RE_COPY) from None
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
        reason = str(error).strip().splitlines()[-1]
        raise OSError(f"writing {path.name} failed ({reason})") from None


def _require_complete(path: Path) -> None:
    """Compare the data's length with the header, through the checksum where it is compressed."""
    head, data = _split(path)
    if path.name.lower().endswith(".mha"):
        fields = _fields(head, "=")
        sizes, kind = fields.get("DimSize", ""), fields.get("ElementType", "")
        width = _META_BYTES.get(kind, 0) * int(fields.get("ElementNumberOfChannels", "1") or 1)
        packed = fields.get("CompressedData", "False").lower() == "true"
    else:
        fields = _fields(head, ":")
        sizes, kind = fields.get("sizes", ""), fields.get("type", "")
        width = _NRRD_BYTES.get(kind, 0)
        packed = fields.get("encoding", "") in ("gzip", "gz")
        if not packed and fields.get("encoding") != "raw":
            raise InputError(
                f"its encoding is {fields.get('encoding')!r}", path=path, mend="save it as gzip"
            )
    if not width or not all(part.isdigit() for part in sizes.split()):
        raise InputError(
            f"its header says type {kind!r} and size {sizes!r}", path=path, mend=_RE_COPY
        )
    expected = math.prod(int(part) for part in sizes.split()) * width
    found = _unpacked_length(data, expected, path) if packed else len(data)
    if found != expected:
        raise InputError(
            f"holds {found} voxel bytes where its header says {expected}", path=path, mend=_RE_COPY
        )


def _split(path: Path) -> tuple[str, bytes]:
    """Return the header's text and the bytes behind it."""
    content = path.read_bytes()
    if path.name.lower().endswith(".mha"):
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


def _fields(head: str, separator: str) -> dict[str, str]:
    pairs = (line.split(separator, 1) for line in head.splitlines() if separator in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _unpacked_length(data: bytes, expected: int, path: Path) -> int:
    """Length of the unpacked stream, never holding more than twice what the header says."""
    try:
        if data[:2] == b"\x1f\x8b":
            return len(gzip.decompress(data))
        stream = zlib.decompressobj()
        length = len(stream.decompress(data, expected + 1))
        if not stream.eof and length <= expected:
            length += len(stream.flush())
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=path, mend=_RE_COPY
        ) from None
    if not stream.eof and length <= expected:
        raise InputError("the compressed data is cut short", path=path, mend=_RE_COPY)
    return length
