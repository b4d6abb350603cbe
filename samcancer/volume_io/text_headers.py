"""The text headers of MetaImage (.mha) and NRRD files: what the voxels are and where they lie.

Sources: the MetaIO documentation, and the NRRD format definition (teem.sourceforge.net/nrrd). The
grid equals SimpleITK's. What SimpleITK would fill in by itself, such as a spacing, is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError

RE_COPY = "re-copy the file"

_RE_SAVE = "save it again as a compressed 3-D volume"

_SIZE = re.compile("[1-9][0-9]{0,8}")
"""A number of voxels or channels."""

_NO_ORIENTATION = "the header gives no orientation: taken as LPS"

_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip

_NRRD_NAMES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
"""numpy type -> every name that the NRRD format has for it."""

_NRRD_TYPES = {name: kind for kind, names in _NRRD_NAMES.items() for name in names.split(", ")}

_NRRD_SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
"""Named spaces -> signs that turn their axes into LPS."""

_NRRD_DOMAINS = ("domain", "space", "time")


@dataclass(frozen=True)
class TextHeader:
    """What a header says about the bytes behind it."""

    size_xyz: tuple[int, int, int]
    dtype: np.dtype[Any]
    packed: bool
    affine_lps: NDArray[np.float64]
    """(4, 4): voxel index (x, y, z, 1) to mm."""
    warnings: tuple[str, ...]


def parse_meta_header(text: str, path: Path) -> TextHeader:
    """Read the header of an .mha file.

    Raises:
        InputError: When it does not describe one 3-D volume of numbers with a spacing.
    """
    fields = _fields(text, "=")
    for name, usual in (("HeaderSize", "0"), ("BinaryData", "True")):
        if fields.get(name, usual).lower() not in (usual.lower(), "-1"):
            raise InputError(f"its {name} is {fields[name]!r}", path=path, mend=_RE_SAVE)
    kind = _META_TYPES.get(fields.get("ElementType", ""))
    sizes = _sizes(kind, fields.get("ElementType", ""), fields.get("DimSize", ""), path)
    channels = fields.get("ElementNumberOfChannels", "1")
    if channels != "1":
        raise InputError(f"has {channels} values per voxel", path=path,
                         mend="save one grey value per voxel")  # fmt: skip
    count = len(sizes)
    size = _three(sizes, path)
    spacing = _first(fields, "ElementSpacing", "ElementSize")
    matrix = _first(fields, "TransformMatrix", "Rotation", "Orientation")
    offset = _first(fields, "Offset", "Position", "Origin")
    affine = np.eye(4)
    if matrix is not None:
        # Row i is the direction of axis i.
        affine[:3, :3] = _numbers(matrix, count * count, path).reshape(count, count)[:3, :3].T
    affine[:3, :3] *= _numbers(_required_spacing(spacing, path), count, path)[:3]
    if offset is not None:
        affine[:3, 3] = _numbers(offset, count, path)[:3]
    swapped = _first(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") or "False"
    return TextHeader(
        size,
        np.dtype(f"{'>' if swapped.lower() == 'true' else '<'}{kind}"),
        fields.get("CompressedData", "False").lower() == "true",
        affine,
        () if matrix is not None and offset is not None else (_NO_ORIENTATION,),
    )


def parse_nrrd_header(text: str, path: Path) -> TextHeader:
    """Read the header of an .nrrd file.

    Raises:
        InputError: When it does not describe one 3-D volume of numbers with a spacing.
    """
    fields = {key.lower(): value for key, value in _fields(text, ":").items()}
    if "data file" in fields or "datafile" in fields:
        raise InputError("keeps its voxels in another file", path=path, mend="save it as one .nrrd")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("gzip", "gz", "raw"):
        raise InputError(f"its encoding is {encoding!r}", path=path, mend="save it as gzip")
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") != "0":
            raise InputError(f"its {name} is {fields[name]!r}", path=path, mend=_RE_SAVE)
    kind = _NRRD_TYPES.get(fields.get("type", ""))
    sizes = _sizes(kind, fields.get("type", ""), fields.get("sizes", ""), path)
    kinds = fields.get("kinds", "").lower().split()
    if len(sizes) > 3 and kinds and kinds[0] not in _NRRD_DOMAINS:
        raise InputError(f"has {sizes[0]} values per voxel", path=path,
                         mend="save one grey value per voxel")  # fmt: skip
    size = _three(sizes, path)
    order = fields.get("endian", "little" if kind in ("i1", "u1") else "").lower()
    if order not in ("little", "big"):
        raise InputError(f"its endian is {order!r}", path=path, mend=RE_COPY)
    affine, warnings = _nrrd_affine(fields, len(sizes), path)
    dtype = np.dtype(f"{'>' if order == 'big' else '<'}{kind}")
    return TextHeader(size, dtype, encoding != "raw", affine, warnings)


def _nrrd_affine(
    fields: dict[str, str], count: int, path: Path
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    affine = np.eye(4)
    directions = fields.get("space directions")
    if directions is None:
        spacing = _required_spacing(fields.get("spacings"), path)
        affine[:3, :3] *= _numbers(spacing, count, path)[:3]
        return affine, (_NO_ORIENTATION,)
    space = fields.get("space", "").lower()
    signs = _NRRD_SPACES.get(space, (1, 1, 1))
    if space and space not in _NRRD_SPACES:
        raise InputError(f"its space is {space!r}", path=path,
                         mend=f"save it in {next(iter(_NRRD_SPACES))}")  # fmt: skip
    vectors = re.findall(r"\(([^()]*)\)", directions)
    if len(vectors) < 3:
        raise InputError(f"its space directions are {directions!r}", path=path, mend=RE_COPY)
    for axis in range(3):
        affine[:3, axis] = _numbers(vectors[axis], None, path)[:3]
    affine[:3, 3] = _numbers(fields.get("space origin", "(0,0,0)").strip("()"), None, path)[:3]
    affine[:3] *= np.array(signs)[:, None]
    told = space and "space origin" in fields
    return affine, () if told or "space dimension" in fields else (_NO_ORIENTATION,)


def _fields(text: str, separator: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if separator in line and not line.startswith("#"))
    pairs = (line.split(separator, 1) for line in lines)
    return {key.strip(): value.strip() for key, value in pairs}


def _first(fields: dict[str, str], *names: str) -> str | None:
    return next((fields[name] for name in names if name in fields), None)


def _sizes(kind: str | None, type_name: str, sizes: str, path: Path) -> list[int]:
    parts = sizes.split()
    if kind is None or not parts or not all(_SIZE.fullmatch(part) for part in parts):
        raise InputError(
            f"its header says type {type_name!r} and size {sizes!r}", path=path, mend=RE_COPY
        )
    return [int(part) for part in parts]


def _three(sizes: list[int], path: Path) -> tuple[int, int, int]:
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        raise InputError(
            f"has {len(sizes)} dimensions, {sizes}", path=path, mend="save one 3-D volume"
        )
    return (sizes[0], sizes[1], sizes[2])


def _required_spacing(spacing: str | None, path: Path) -> str:
    if spacing is None:
        raise InputError("its header gives no voxel spacing", path=path, mend="save it with one")
    return spacing


def _numbers(text: str, count: int | None, path: Path) -> NDArray[np.float64]:
    """The numbers in ``text``, ``count`` of them, or at least three for None."""
    try:
        values = np.array([float(part) for part in text.replace(",", " ").split()])
    except ValueError:
        values = np.empty(0)
    if (values.size < 3) if count is None else (values.size != count):
        raise InputError(f"its header has {text!r} for numbers", path=path, mend=RE_COPY)
    return values
