"""How many voxels a scan says that it has, from headers alone, before any memory is taken."""

from __future__ import annotations

import math
from pathlib import Path

from samcancer.errors import InputError
from samcancer.volume_io.formats import VOLUME_SUFFIXES, require_content_matches_name, volume_suffix
from samcancer.volume_io.gzip_stream import DAMAGED, open_gzip
from samcancer.volume_io.nifti_header import HEADER_BYTES, RE_COPY, parse_header
from samcancer.volume_io.text_headers import parse_meta_header, parse_nrrd_header

_MAX_TEXT_HEADER_BYTES = 1 << 20
"""Of an .mha or .nrrd file; real headers take a few hundred."""


def stated_voxels(scan: Path) -> int:
    """Return the voxels that reading a scan would take memory for.

    Args:
        scan: A volume file, or a folder with a DICOM series.

    Raises:
        InputError: When a header is damaged.
    """
    if scan.is_dir():
        return _voxels_of_series(scan)
    require_content_matches_name(scan)
    if VOLUME_SUFFIXES[volume_suffix(scan) or ""] == "nifti":
        return _voxels_of_nifti(scan)
    return _voxels_of_text_header(scan)


def _voxels_of_nifti(path: Path) -> int:
    try:
        with open_gzip(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            header, _ = parse_header(stream.read(HEADER_BYTES), path)
    except DAMAGED as error:
        raise InputError(
            f"the compressed data is damaged or cut short ({error})", path=path, mend=RE_COPY
        ) from None
    count = int(header["dim"][0])
    # Sizes below 1 and counts beyond 7 are refused by the reader, before it takes memory.
    return math.prod(max(1, int(size)) for size in header["dim"][1 : max(count, 0) + 1])


def _voxels_of_text_header(path: Path) -> int:
    with path.open("rb") as stream:
        head = stream.read(_MAX_TEXT_HEADER_BYTES)
    is_meta = path.suffix.lower() == ".mha"
    if is_meta:
        key = head.find(b"ElementDataFile")
        end = head.find(b"\n", key) if key >= 0 else -1
    else:
        end = head.find(b"\n\n")
    if end < 0:
        raise InputError("ends inside its header", path=path, mend=RE_COPY)
    parse = parse_meta_header if is_meta else parse_nrrd_header
    return math.prod(parse(head[:end].decode("latin-1"), path).size_xyz)


def _voxels_of_series(folder: Path) -> int:
    """The largest slice times the number of slices, as arrays of one size are taken for all."""
    from samcancer.volume_io.dicom_files import numbers_of, read_tags, whole_number_of

    largest = slices = 0
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        tags = read_tags(path)
        if tags is not None and tags["Rows"] is not None and tags["Columns"] is not None:
            rows, columns = (float(numbers_of(tags, n, 1, path)[0]) for n in ("Rows", "Columns"))
            largest = max(largest, int(rows * columns))
            slices += max(1, whole_number_of(tags, "NumberOfFrames", path) or 1)
    return largest * slices
