"""MetaImage (.mha) and NRRD files: read here to the last byte, written by SimpleITK.

SimpleITK's own reader accepts damaged files: with a wrong CompressedDataSize it says "Uncompress
failed" on the terminal and returns an image. So the stream is unpacked here, through its checksum,
and its length compared with the header.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io.grids import grid_from_affine
from samcancer.volume_io.gzip_stream import DAMAGED, DEFLATE_MAX_RATIO, unpack
from samcancer.volume_io.text_headers import RE_COPY, parse_meta_header, parse_nrrd_header
from samcancer.volume_io.volume import RawVolume, ReadOptions

_MAX_HEADER_BYTES = 1 << 20


def read_itk(path: Path, options: ReadOptions) -> RawVolume:
    """Read an .mha or .nrrd file.

    Raises:
        InputError: When data is missing or damaged, it is not one 3-D volume of real numbers, or
            its grid is not usable.
    """
    text, data = _split(path)
    header = (parse_meta_header if _is_meta(path) else parse_nrrd_header)(text, path)
    expected = math.prod(header.size_xyz) * header.dtype.itemsize
    # Checked before unpacking: a damaged header can ask for terabytes.
    if header.packed and expected > DEFLATE_MAX_RATIO * len(data):
        raise InputError(
            f"its header asks for {expected} bytes, more than the file can hold",
            path=path,
            mend=RE_COPY,
        )
    voxels = _unpacked(data, expected, path) if header.packed else data
    if len(voxels) != expected:
        problem = "more" if len(voxels) > expected else f"{len(voxels)}"
        raise InputError(
            f"holds {problem} voxel bytes where its header says {expected}",
            path=path,
            mend=RE_COPY,
        )
    geometry, straightened = grid_from_affine(
        header.affine_lps, header.size_xyz, path=path, nearest_rotation=options.nearest_rotation
    )
    stored = np.frombuffer(voxels, header.dtype).reshape(geometry.shape)
    # The copy is writable and in the machine's byte order.
    values = stored.astype(header.dtype.newbyteorder("="))
    return RawVolume(values, geometry, rescaled=False, warnings=(*header.warnings, *straightened))


def write_itk(path: Path, values: NDArray[Any], geometry: Geometry) -> None:
    """Write an .mha or .nrrd file; not atomic, the caller's concern.

    Raises:
        OSError: When SimpleITK fails.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name; slow to import

    image: Any = sitk.GetImageFromArray(np.ascontiguousarray(values))
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise OSError(f"writing {path.name} failed ({reason})") from None


def _is_meta(path: Path) -> bool:
    return path.name.lower().endswith(".mha")


def _split(path: Path) -> tuple[str, memoryview]:
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
        raise InputError("ends inside its header", path=path, mend=RE_COPY)
    return content[:end].decode("latin-1"), memoryview(content)[end:]


def _unpacked(data: memoryview, expected: int, path: Path) -> bytes:
    """The unpacked stream; of one longer than ``expected`` only the start."""
    try:
        return unpack(data, expected + 1)
    except DAMAGED as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=path, mend=RE_COPY
        ) from None
