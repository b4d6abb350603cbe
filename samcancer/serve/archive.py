"""Unpack a zip of one scan: few entries, counted as they are unpacked, under names of our own.

Nothing of an entry's name is used but its ending. The list of entries is measured before it is
read, since reading it takes memory, and sizes that the archive claims are never believed.
"""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from samcancer.errors import InputError
from samcancer.serve.naming import SERIES_SUFFIX, entry_name, only_scan_of
from samcancer.volume_io.formats import VOLUME_SUFFIXES

_END = struct.Struct("<4s4H2LH")
"""End of central directory record (APPNOTE 4.3.16)."""

_END_MAGIC = b"PK\x05\x06"

_ZIP64_LOCATOR_MAGIC = b"PK\x06\x07"

_ZIP64_LOCATOR_BYTES = 20

_LONGEST_COMMENT = (1 << 16) - 1

_LIST_BYTES_PER_ENTRY = 1024
"""Most bytes of the list for one entry: name, extra fields and comment together."""

_MAX_RATIO = 100
"""Most unpacked bytes for one packed byte. DICOM series pack to a half or a third."""

_RATIO_FREE_BYTES = 1 << 24
"""Unpacked bytes that no ratio is asked of, since small files of air pack well."""

_BLOCK_BYTES = 1 << 20

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_ENCRYPTED = 0x1

_NOT_FILES = ("__MACOSX/",)
"""Folders of what macOS adds to an archive."""

_PACK_AGAIN = "pack the scan again, or give the files themselves"

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, ValueError,
    RuntimeError, OverflowError, OSError,
)  # fmt: skip
"""What zipfile raises on archives that are not as they should be."""


class ArchiveLimits(NamedTuple):
    """What may come out of one archive."""

    files: int
    unpacked_bytes: int


def unpack_scan(
    archive: Path,
    folder: Path,
    limits: ArchiveLimits,
    *,
    on_block: Callable[[], None] = lambda: None,
) -> Path:
    """Unpack an archive into a new folder and return its scan: a volume, or the folder.

    Args:
        archive: The zip file.
        folder: Made here.
        limits: What may come out.
        on_block: Called now and then; may raise to stop.

    Raises:
        InputError: When it is damaged, encrypted or too large, or holds more than one scan.
    """
    _require_short_list(archive, limits)
    folder.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _entries_of(opened, archive, limits)
            counter = _Counter(archive, limits.unpacked_bytes, on_block)
            paths = [
                folder / entry_name(number, _suffix_of(entry))
                for number, entry in enumerate(entries)
            ]
            for entry, path in zip(entries, paths, strict=True):
                _unpack(opened, entry, path, counter)
    except InputError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"the archive is damaged ({type(error).__name__})", path=archive, mend=_PACK_AGAIN
        ) from None
    return only_scan_of(paths) or folder


class _Counter:
    """Counts what is unpacked and stops at the limit."""

    def __init__(self, archive: Path, limit: int, on_block: Callable[[], None]) -> None:
        self._archive = archive
        self._limit = limit
        self._packed = archive.stat().st_size
        self._on_block = on_block
        self._count = 0

    def add(self, count: int) -> None:
        """Count more bytes.

        Raises:
            InputError: When they are too many.
        """
        self._on_block()
        self._count += count
        if self._count > self._limit:
            raise InputError(
                f"unpacks to more than {self._limit / 1e6:g} MB, the limit",
                path=self._archive,
                mend="give fewer or smaller files",
            )
        if self._count > max(_RATIO_FREE_BYTES, _MAX_RATIO * self._packed):
            raise InputError(
                f"unpacks to more than {_MAX_RATIO} times its size",
                path=self._archive,
                mend="give the files themselves",
            )


def _unpack(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, counter: _Counter) -> None:
    with opened.open(entry) as source, path.open("xb") as target:
        while block := source.read(_BLOCK_BYTES):
            counter.add(len(block))
            target.write(block)


def _entries_of(
    opened: zipfile.ZipFile, archive: Path, limits: ArchiveLimits
) -> list[zipfile.ZipInfo]:
    """Return what is to be unpacked, or refuse the archive."""
    entries = [entry for entry in opened.infolist() if _is_file(entry)]
    _require_few(len(opened.infolist()), archive, limits)
    if not entries:
        raise InputError("the archive holds no file", path=archive, mend=_PACK_AGAIN)
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise InputError("the archive is encrypted", path=archive, mend=_PACK_AGAIN)
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise InputError("is packed by another method than deflate", path=archive, mend=_PACK_AGAIN)
    return entries


def _is_file(entry: zipfile.ZipInfo) -> bool:
    name = entry.filename.rpartition("/")[2]
    return not (entry.is_dir() or name.startswith(".") or entry.filename.startswith(_NOT_FILES))


def _suffix_of(entry: zipfile.ZipInfo) -> str:
    """Return the one thing that is taken from an entry's name."""
    name = entry.filename.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), SERIES_SUFFIX)


def _require_few(count: int, archive: Path, limits: ArchiveLimits) -> None:
    if count > limits.files:
        raise InputError(
            f"holds {count} files or more, and at most {limits.files} are taken",
            path=archive,
            mend="pack one series alone",
        )


def _require_short_list(archive: Path, limits: ArchiveLimits) -> None:
    """Refuse an archive whose list of entries is long, before the list is read."""
    with archive.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _LONGEST_COMMENT - _END.size - _ZIP64_LOCATOR_BYTES))
        tail = stream.read()
    at = tail.rfind(_END_MAGIC)
    if at < 0 or len(tail) - at < _END.size:
        raise InputError("is not a zip archive, or is cut short", path=archive, mend=_PACK_AGAIN)
    _, _, _, _, count, list_bytes, _, _ = _END.unpack_from(tail, at)
    _require_few(count, archive, limits)
    # zipfile takes the counts of a ZIP64 record in place of these, so none may be there.
    has_zip64 = tail[max(0, at - _ZIP64_LOCATOR_BYTES) : at].startswith(_ZIP64_LOCATOR_MAGIC)
    if has_zip64 or list_bytes > _LIST_BYTES_PER_ENTRY * (count + 1):
        raise InputError("its list of files is unusual", path=archive, mend=_PACK_AGAIN)
