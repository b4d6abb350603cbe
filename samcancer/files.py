"""Files that are either whole or absent: atomic writes, hashes, locks and free-space checks.

Everything that samcancer writes goes through :func:`atomic_path`: a temporary name in the same
folder, fsync, an optional check of what was written, then rename. A process killed at any moment
leaves the old file or the new one, never a part of either.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from samcancer.errors import InputError

_READ_BLOCK_BYTES = 1 << 20
"""Block size for hashing a file."""

_MAKE_ROOM = "free some space or choose another disk"

_LOCK_INTERVAL_S = 0.02
"""Time between two attempts at a lock."""

_KEPT_NAME = 40
"""Characters of a file's name kept in its temporary name, so that a long name stays legal."""

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Start of text that a spreadsheet would run as a formula, or that already carries our mark."""

TEMPORARY_PREFIX = ".tmp-"
"""Start of the name of every unfinished file; such files are never read as results."""

LOCK_NAME = ".lock"
"""File in a folder that one process at a time may write to; it says who holds it."""

_UNSAFE_NAME = re.compile(r"^[.\s]|[/\\\x00-\x1f\x7f]|\s$")
"""What a name may not hold that becomes that of a file."""


@contextlib.contextmanager
def atomic_path(
    path: Path,
    *,
    expected_bytes: int = 0,
    verify: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    Args:
        path: Final name; an existing file is replaced in one step.
        expected_bytes: Size about to be written; refused up front when the disk has less free.
        verify: Called with the temporary path after fsync; raises when the file is not as intended.

    Raises:
        InputError: When the folder is not writable, or the disk is too full or becomes full.
    """
    require_writable_folder(path.parent, needed_bytes=expected_bytes)
    temporary = temporary_path_for(path)
    try:
        yield temporary
        _fsync(temporary)
        if verify is not None:
            verify(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise full_disk_error(path) from None
    finally:
        temporary.unlink(missing_ok=True)


def is_full_disk(error: OSError) -> bool:
    """Return whether an error says that the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full_disk_error(path: Path | str | None) -> InputError:
    """Return what is said of a full disk; ``path`` is what was being written, if known."""
    return InputError("the disk is full", path=path, mend=_MAKE_ROOM)


def temporary_path_for(path: Path) -> Path:
    """Return a fresh unfinished-file name beside ``path`` that keeps its suffixes."""
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{path.name[-_KEPT_NAME:]}")


def remove_stale_temporaries(folder: Path) -> int:
    """Delete unfinished files that a killed process left in ``folder``; return how many.

    Only call this while holding the folder's lock.
    """
    stale = [p for p in folder.glob(f"{TEMPORARY_PREFIX}*") if p.is_file()]
    for path in stale:
        path.unlink()
    return len(stale)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` atomically."""
    data = text.encode("utf-8")
    with atomic_path(path, expected_bytes=len(data)) as temporary:
        temporary.write_bytes(data)


def append_line(path: Path, line: str) -> None:
    """Add one line to a file, safely on disk when this returns; one process at a time.

    A process that is killed meanwhile leaves the lines before whole; readers drop a torn last one.

    Raises:
        InputError: When the file is a link, or the disk is full.
    """
    with _open_own_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as stream:
        try:
            stream.write(f"{line}\n")
            stream.flush()
            os.fsync(stream.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError("the disk is full", path=path, mend=_MAKE_ROOM) from None


def write_json_atomic(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON to ``path`` atomically."""
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv_atomic(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically; its texts pass :func:`csv_text`, its numbers stay as they are."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_text(v) if isinstance(v, str) else v for v in row] for row in rows)
    write_text_atomic(path, stream.getvalue())


def read_csv(path: Path, *, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a header, its texts as :func:`csv_text` was given them.

    Args:
        path: UTF-8, with or without a byte-order mark.
        required: Columns that it must have; others are kept.

    Returns:
        Column -> cell for each line, blanks around a cell removed, missing cells empty.

    Raises:
        InputError: When the file cannot be read, is no such table or lacks a column.
    """
    mend = f"name a CSV table with the columns {','.join(required)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = reader.fieldnames or [], list(reader)
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend=mend) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path, mend=mend) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"not a CSV table in UTF-8 ({error})", path=path, mend=mend) from None
    if not set(required) <= set(columns):
        raise InputError(f"has the columns {list(columns)}", path=path, mend=mend)
    return [{name: text_of_csv((row[name] or "").strip()) for name in columns} for row in rows]


def csv_text(text: str) -> str:
    """Return text for a cell that no spreadsheet takes for a formula.

    Spreadsheets run a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return,
    and a case may be called so. It gets a leading apostrophe, which they show as text.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def text_of_csv(cell: str) -> str:
    """Return what :func:`csv_text` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: When the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path) from None
    except (ValueError, RecursionError) as error:  # numbers and nesting without end are these, too
        raise InputError(
            f"not valid JSON ({error})", path=path, mend="write the file anew"
        ) from None


def write_sealed_json(path: Path, content: Mapping[str, Any]) -> str:
    """Write ``content`` with a hash of its own atomically; return the hash."""
    write_text_atomic(path, _sealed_text(content))
    return _digest_of(content)


def read_sealed_json(
    path: Path, *, kind: str, key: str, version: int, mend: str
) -> tuple[dict[str, Any], str]:
    """Read what :func:`write_sealed_json` left; return it without its hash, and the hash.

    Args:
        path: Of the file.
        kind: What it is the JSON of, for messages.
        key: What only that kind has.
        version: Its ``format`` that can be read.
        mend: What a message tells to do.

    Raises:
        InputError: When the file is missing, of another kind or format, or any byte has changed.
    """
    content = read_json(path)
    if not isinstance(content, dict) or key not in content:
        raise InputError(f"not the JSON of a {kind}", path=path, mend=mend)
    if content.get("format") != version:
        raise InputError(
            f"{kind} format {content.get('format')!r}, this version reads {version}",
            path=path,
            mend=f"use the version of samcancer that wrote it, or {mend}",
        )
    stated = content.pop("json_sha256", None)
    digest = _digest_of(content)
    if stated != digest or path.read_text(encoding="utf-8") != _sealed_text(content):
        raise InputError("was changed since it was written", path=path, mend=mend)
    return content, digest


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def require_writable_folder(folder: Path, *, needed_bytes: int = 0) -> None:
    """Create ``folder`` if needed and refuse it when it cannot take ``needed_bytes``.

    Raises:
        InputError: When the folder cannot be created or written, or the disk is too full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create the folder ({error.strerror})",
            path=folder,
            mend="choose another folder",
        ) from None
    if not os.access(folder, os.W_OK):
        raise InputError("the folder is read-only", path=folder, mend="choose another folder")
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"needs {needed_bytes} bytes and the disk has {free} free",
            path=folder,
            mend=_MAKE_ROOM,
        )


def is_safe_name(name: str) -> bool:
    """Return whether a case or a run may have this name, since files are named after it."""
    return bool(name) and _UNSAFE_NAME.search(name) is None


def safe_name(name: str) -> str:
    """Return a name that files may have, with underscores for what they may not."""
    return _UNSAFE_NAME.sub("_", name) or "_"


def require_own_folder(folder: Path) -> None:
    """Refuse a folder below an output that is a link, so that results stay where they were asked.

    The output folder itself may be a link: a user names it.

    Raises:
        InputError: Naming where the link leads.
    """
    if folder.is_symlink():
        raise InputError(
            f"is a link to {folder.readlink()}, so results would be written there",
            path=folder,
            mend="remove the link, or name that folder as the output",
        )


@contextlib.contextmanager
def folder_lock(
    folder: Path,
    *,
    purpose: str,
    patience_s: float = 0.0,
    name: str = LOCK_NAME,
    shared: bool = False,
) -> Iterator[None]:
    """Hold the folder's single-writer lock for the length of the block.

    Args:
        folder: The folder that one process at a time may write to.
        purpose: What the holder does, quoted to the process that comes second.
        patience_s: Time to wait for another process, where one is done in a moment.
        name: Of the lock's file.
        shared: Let others hold it too that ask for it shared.

    Raises:
        InputError: When another process holds the lock; the message names its pid.
    """
    require_writable_folder(folder)
    with _open_own_file(folder / name, os.O_RDWR | os.O_APPEND | os.O_CREAT) as stream:
        if not _locked(stream, patience_s, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            stream.seek(0)
            holder = stream.read().strip() or "unknown process"
            raise InputError(
                f"is being written by {holder}", path=folder, mend="wait for it or stop it"
            )
        stream.truncate(0)
        stream.write(f"{'jobs' if shared else f'pid {os.getpid()}'} ({purpose})")
        stream.flush()
        try:
            yield
        finally:
            if not shared:  # others may hold it still
                stream.truncate(0)


def is_locked(path: Path) -> bool:
    """Return whether some process holds the lock of this file."""
    with _open_own_file(path, os.O_RDWR | os.O_APPEND) as stream:
        return not _locked(stream, 0.0, fcntl.LOCK_EX)


def _locked(stream: IO[str], patience_s: float, kind: int) -> bool:
    """Try to lock an open file, again and again until the time is up."""
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOCK_INTERVAL_S)


def _open_own_file(path: Path, flags: int) -> IO[str]:
    """Open a file that is changed in place: never through a link, which may lead anywhere."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _linked(path) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise _linked(path)
    return os.fdopen(descriptor, "a+" if flags & os.O_RDWR else "a", encoding="utf-8")


def _linked(path: Path) -> InputError:
    return InputError("is a link to another file", path=path, mend="remove the link")


def _sealed_text(content: Mapping[str, Any]) -> str:
    sealed = {**content, "json_sha256": _digest_of(content)}
    return json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
