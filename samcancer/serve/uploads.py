"""Take an uploaded file: streamed to disk, counted, and given up when it stalls or grows too large.

The size that a request claims is used only to refuse it early; what counts is what arrives.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from samcancer.serve.jobs import Job, JobQueue

_BLOCK_BYTES = 1 << 20
"""Written at once; the network hands over far smaller pieces."""


class UploadError(Exception):
    """An upload that cannot go on."""

    def __init__(self, status: int, message: str) -> None:
        """Say why.

        Args:
            status: Of the HTTP answer.
            message: One line for the page.
        """
        self.status = status
        super().__init__(message)


class GoneError(Exception):
    """The job was deleted while its file arrived, or the browser went away."""


async def receive_file(request: Request, path: Path, job: Job, queue: JobQueue) -> None:
    """Write the body of a request to a new file.

    Args:
        request: Its body is the file.
        path: Must not exist yet.
        job: The bytes are counted there.
        queue: Knows the limits, and is told of the bytes.

    Raises:
        UploadError: When the files of the job are too large, or no byte comes for too long.
        GoneError: When nobody wants the file any more.
    """
    require_room(job, queue, more=_claimed_bytes(request))
    try:
        stream = await run_in_threadpool(path.open, "xb")
    except FileNotFoundError:
        raise GoneError from None
    except FileExistsError:
        raise UploadError(409, "This file has been sent already.") from None
    try:
        with stream:
            await _copy(request, stream, job, queue)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UploadError(507, "The server's disk is full.") from None
        raise


def require_room(job: Job, queue: JobQueue, *, more: int = 0) -> None:
    """Refuse bytes beyond the limit.

    Raises:
        UploadError: When the job's files and ``more`` bytes are too large.
    """
    limit = queue.settings.max_upload_bytes
    if job.received_bytes + more > limit:
        raise UploadError(413, f"The scan is larger than {limit / 1e6:g} MB, the limit.")


async def _copy(request: Request, stream: BinaryIO, job: Job, queue: JobQueue) -> None:
    block = bytearray()
    async for piece in _pieces(request, queue.settings.idle_s):
        job.received_bytes += len(piece)
        queue.touch(job)
        require_room(job, queue)
        if job.deleted.is_set():
            raise GoneError
        block += piece
        if len(block) >= _BLOCK_BYTES:
            await run_in_threadpool(stream.write, bytes(block))
            block.clear()
    await run_in_threadpool(stream.write, bytes(block))


async def _pieces(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    pieces = request.stream()
    while True:
        try:
            yield await asyncio.wait_for(anext(pieces), idle_s)
        except StopAsyncIteration:
            return
        except (asyncio.TimeoutError, TimeoutError):
            raise UploadError(408, f"No data came for {idle_s:g} seconds.") from None
        except ClientDisconnect:
            raise GoneError from None


def _claimed_bytes(request: Request) -> int:
    claimed = request.headers.get("content-length", "")
    return int(claimed) if claimed.isascii() and claimed.isdecimal() and len(claimed) < 20 else 0
