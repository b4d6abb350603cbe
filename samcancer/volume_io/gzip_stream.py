"""Gzip files, read and written by ISA-L: the same format as zlib's in a fraction of the time.

Reading checks the CRC-32 and the length of every member (RFC 1952) in the pass that unpacks it.
Written files hold no name and no time: the same content gives the same bytes, by one version of
ISA-L on one kind of processor.
"""

from __future__ import annotations

from collections.abc import Iterable
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

DAMAGED = (EOFError, BadGzipFile, cast(type[Exception], isal_zlib.error))  # its stub: an instance
"""What reading raises: EOFError where data is cut short, the others where it is damaged."""

BLOCK_BYTES = 1 << 20
"""Unpacked bytes handled at a time: more is no faster."""

DEFLATE_MAX_RATIO = 1032
"""Most bytes that one packed byte can stand for."""

_LEVEL = 2
"""Of 0 to 3. Level 3 makes scans 1 to 7 % smaller and label maps almost twice as large."""

_GZIP_FRAME = isal_zlib.MAX_WBITS | 16
"""zlib's code for data in a gzip frame."""

_ZLIB_OR_GZIP_FRAME = isal_zlib.MAX_WBITS | 32
"""zlib's code for telling the two by their first bytes."""


def open_gzip(path: Path) -> BinaryIO:
    """Open a .gz file for reading; zeros behind the last member are padding.

    Reading raises one of ``DAMAGED``; that the data is sound is certain only once the end has been
    read. ``readinto`` takes as much memory again as it is given, so give it blocks.
    """
    return cast(BinaryIO, igzip.open(path, "rb"))  # type: ignore[no-untyped-call]  # isal's own


def write_gzip(path: Path, parts: Iterable[Any]) -> None:
    """Write buffers one behind the other as one gzip member; not atomic, the caller's concern."""
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_FRAME)
    with path.open("wb") as packed:
        for part in parts:
            content = memoryview(part).cast("B")
            for start in range(0, len(content), BLOCK_BYTES):
                packed.write(packer.compress(content[start : start + BLOCK_BYTES]))
        packed.write(packer.flush())


def unpack(data: memoryview, most: int) -> bytes:
    """Unpack a zlib or gzip stream through its checksum; of a longer one only ``most`` bytes.

    Raises:
        One of ``DAMAGED``: When the data is damaged or cut short.
    """
    stream = isal_zlib.decompressobj(_ZLIB_OR_GZIP_FRAME)
    content = stream.decompress(data, most)
    if not stream.eof and len(content) < most:
        raise EOFError("the stream ends before its end marker")
    return content
