"""A case store on a server or in object storage, read through a folder on this machine.

CACHE/stores/KEY/      store.json, taxonomy.yaml and index.jsonl, fetched anew at every start, and
                       origin.json, which says where the cases are
CACHE/files/AB/SHA.h5  files of cases by their SHA-256, fetched when first read

A fetched file is compared with the index before it gets its name, so that what is there is whole
and right, whatever store asks for it. Processes wait for each other instead of fetching a file
twice. When the files take more than the limit, those that were not used for longest are deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from samcancer.data.joined_stores import JOINED_NAME, TAXONOMY_NAME
from samcancer.data.store_index import INDEX_NAME, STORE_NAME, CaseInfo
from samcancer.errors import InputError
from samcancer.files import (
    LOCK_NAME,
    atomic_path,
    folder_lock,
    read_json,
    remove_stale_temporaries,
    require_writable_folder,
    sha256_of,
    write_json_atomic,
    write_text_atomic,
)

ORIGIN_NAME = "origin.json"

PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "file", "memory")
"""What a store may be read through; ``file`` is for network drives, ``memory`` for tests."""

_ORIGIN_FORMAT = 1

_ATTEMPTS = 3
"""Times a file is asked for before a broken transfer counts as an error."""

_WAIT_S = 0.5
"""Pause before the second attempt; it doubles with each."""

_CONNECT_S = 30.0

_SILENCE_S = 60.0
"""Time without a byte after which a transfer over HTTP is broken, however long it takes in all."""

_KEPT_SHARE = 0.9
"""Share of the limit that is left when files were deleted, so that this is seldom done."""

_KEY_DIGITS = 16

_USED_NAME = "used"
"""Bytes that the files take, as far as counted."""


@dataclass
class RemoteFiles:
    """The files of a remote store's cases, fetched when asked for; picklable."""

    url: str
    folder: Path
    """CACHE/files."""
    limit_bytes: int
    _system: tuple[int, Any, str] | None = field(default=None, repr=False)
    """Process, file system and path in it; connections do not survive a fork."""

    def path_of(self, info: CaseInfo) -> Path:
        """Return a case's file on this machine, fetched if need be.

        Raises:
            InputError: When it cannot be fetched, is not what the index says, or the disk is full.
        """
        digest = info.file_sha256
        if not digest:
            raise InputError(f"{self.url}: tells no SHA-256 of case {info.case_id!r}")
        path = self.folder / digest[:2] / f"{digest}.h5"
        if not _touch(path):
            require_writable_folder(path.parent)
            with _turn(self.folder, name=f".lock-{digest[:2]}"):
                if not _touch(path):
                    remove_stale_temporaries(path.parent)
                    self.fetch(info.file, path, sha256=digest)
                    self._count(path)
        return path

    def fetch(self, name: str, path: Path, *, sha256: str | None = None) -> None:
        """Fetch a file of the store to ``path`` atomically.

        Args:
            name: Of the file, relative to the store.
            path: Where it goes.
            sha256: What it must be; None takes it as it comes.

        Raises:
            InputError: When it is not there, cannot be fetched, or is something else.
        """

        def verify(temporary: Path) -> None:
            if sha256 is not None and sha256_of(temporary) != sha256:
                raise InputError(
                    f"{self.url}/{name}: is not the file that the index lists",
                    mend="run the command again, which reads the index anew; if that does not "
                    "help, upload the store again",
                )

        with atomic_path(path, verify=verify) as temporary:
            for attempt in range(_ATTEMPTS):
                try:
                    self._transfer(name, temporary)
                    return
                except InputError:
                    raise
                except FileNotFoundError:
                    raise InputError(
                        f"{self.url}/{name}: there is no such file", mend="check the address"
                    ) from None
                except Exception as error:  # each file system raises what its library does
                    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    if attempt + 1 == _ATTEMPTS:
                        raise _unreachable(f"{self.url}/{name}", error) from None
                    time.sleep(_WAIT_S * 2**attempt)

    def __getstate__(self) -> dict[str, Any]:
        """Leave connections out."""
        return {**self.__dict__, "_system": None}

    def _transfer(self, name: str, target: Path) -> None:
        if self._system is None or self._system[0] != os.getpid():
            self._system = (os.getpid(), *_file_system(self.url))
        _, system, root = self._system
        web = urlsplit(self.url).scheme in ("http", "https")
        system.get_file(f"{root.rstrip('/')}/{quote(name) if web else name}", str(target))

    def _count(self, path: Path) -> None:
        """Add a new file to what is used, and delete others when that is too much."""
        with _turn(self.folder):
            counted = self.folder / _USED_NAME
            try:
                used = int(counted.read_text(encoding="ascii")) + path.stat().st_size
            except (OSError, ValueError):
                used = sum(size for _, size, _ in self._files())
            if used > self.limit_bytes:
                used = self._delete_oldest(path)
            write_text_atomic(counted, str(used))

    def _delete_oldest(self, newest: Path) -> int:
        """Delete files until they take less than the limit; return what is left.

        A file that is open in a process stays readable there.
        """
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if used <= self.limit_bytes * _KEPT_SHARE:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                used -= size
        return used

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Yield last use, size and path of every file."""
        for path in self.folder.glob("??/*.h5"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                yield found.st_mtime_ns, found.st_size, path


def open_remote_store(url: str, cache: Path, *, limit_bytes: int) -> Path:
    """Fetch what describes a store; return the folder that stands for it.

    Args:
        url: Such as ``https://host/store`` or ``s3://bucket/store``.
        cache: Folder on this machine, for any number of stores.
        limit_bytes: What the files of cases may take there.

    Raises:
        InputError: When there is no such store, or it cannot be reached.
    """
    url = url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in PROTOCOLS or parts.query or parts.fragment:
        raise InputError(
            f"{url}: is no address of a store",
            mend=f"name a folder, or an address that begins with {', '.join(PROTOCOLS[:3])} or "
            "the like and has no ? or #",
        )
    key = hashlib.sha256(url.encode("utf-8")).hexdigest()[:_KEY_DIGITS]
    folder = cache / "stores" / key
    require_writable_folder(folder)
    require_writable_folder(cache / "files")
    files = RemoteFiles(url, cache / "files", limit_bytes)
    with _turn(folder):
        remove_stale_temporaries(folder)
        for name in (STORE_NAME, TAXONOMY_NAME, INDEX_NAME):
            files.fetch(name, folder / name)
        origin = {"format_version": _ORIGIN_FORMAT, "url": url, "limit_bytes": limit_bytes}
        write_json_atomic(folder / ORIGIN_NAME, origin)
    return folder


def remote_files(folder: Path) -> RemoteFiles | None:
    """Return where the cases of a folder of :func:`open_remote_store` are; None for other folders.

    Raises:
        InputError: When what it says of that is damaged.
    """
    path = folder / ORIGIN_NAME
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        version, url = content["format_version"], str(content["url"])
        limit_bytes = int(content["limit_bytes"])
    except (KeyError, TypeError, ValueError):
        version, url, limit_bytes = None, "", 0
    if version != _ORIGIN_FORMAT or urlsplit(url).scheme not in PROTOCOLS:
        raise InputError("says no address", path=path, mend="delete it and open the store again")
    return RemoteFiles(url, folder.parent.parent / "files", limit_bytes)


def require_plain_store(folder: Path) -> None:
    """Refuse to write cases to a folder that only stands for stores elsewhere.

    Raises:
        InputError: When it joins stores or is a part of a cache.
    """
    for name in (JOINED_NAME, ORIGIN_NAME):
        if (folder / name).is_file():
            raise InputError(
                f"stands for stores elsewhere ({name}), which are only read through it",
                path=folder,
                mend="name the store itself",
            )


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(
            f"{url}: reading stores from elsewhere needs fsspec",
            mend="run: pip install 'samcancer[remote]'",
        ) from None
    options: dict[str, Any] = {}
    try:
        if urlsplit(url).scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
            options["client_kwargs"] = {"timeout": timeout}
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        raise InputError(f"{url}: {error}", mend="install the package it names") from None
    return system, str(path)


def _unreachable(address: str, error: Exception) -> InputError:
    status = getattr(error, "status", None)
    said = str(error).splitlines()[:1] or [""]
    fact = f"the server answers {status}" if status else f"{type(error).__name__}: {said[0]}"
    return InputError(
        f"{address}: cannot be fetched ({fact})",
        mend="check the address and the network, then run the command again",
    )


def _touch(path: Path) -> bool:
    """Mark a file as used now; False when it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _turn(folder: Path, *, name: str = LOCK_NAME) -> contextlib.AbstractContextManager[None]:
    """Hold a lock; wait for as long as others fetch."""
    return folder_lock(folder, purpose="fetching", patience_s=math.inf, name=name)
