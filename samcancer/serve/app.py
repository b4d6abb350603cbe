"""The web application: one page, and the few requests it makes.

Every address is a fixed route. What follows a job's id is a number, or the name of a result that
the job itself listed; nothing that a browser sends becomes part of a path on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from samcancer import __version__
from samcancer.serve.guard import VIEWER_POLICY, Guard
from samcancer.serve.jobs import Job, JobQueue, QueueFullError, State
from samcancer.serve.naming import ALLOWED_SUFFIXES, parse_number, uploaded_name
from samcancer.serve.settings import ServeSettings
from samcancer.serve.uploads import GoneError, UploadError, receive_file

_SWEEP_S = 5.0
"""Between two looks for jobs that are over."""

_RESERVE_BYTES = 1 << 28
"""Disk space that an upload must leave for the results."""

_STATIC = {
    "/": ("samcancer.serve", "serve.html", "text/html"),
    "/serve.css": ("samcancer.serve", "serve.css", "text/css"),
    "/serve.js": ("samcancer.serve", "serve.js", "text/javascript"),
    "/icon.svg": ("samcancer.serve", "icon.svg", "image/svg+xml"),
    "/page.css": ("samcancer.report", "page.css", "text/css"),
}
"""Address -> package, file and type."""

_MEDIA_TYPES = {"page": "text/html", "report": "application/json", "lesions": "text/csv"}
"""Kind of result -> type; others are plain bytes."""


@dataclass(frozen=True)
class ModelFacts:
    """What the page says about the model."""

    classes: tuple[str, ...]
    """Titles of the classes that it looks for."""
    device: str


def make_app(queue: JobQueue, facts: ModelFacts) -> Starlette:
    """Return the application for a queue that has been started."""
    settings = queue.settings
    handlers = _Handlers(queue, facts)

    @contextlib.asynccontextmanager
    async def sweeping(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(queue))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    job = "/api/jobs/{job_id}"
    app = Starlette(
        routes=[
            *(Route(path, _static(*source)) for path, source in _STATIC.items()),
            Route("/api/info", handlers.info),
            Route("/api/jobs", handlers.create, methods=["POST"]),
            Route(job, handlers.status),
            Route(job, handlers.delete, methods=["DELETE"]),
            Route(job + "/files/{number}", handlers.upload, methods=["PUT"]),
            Route(job + "/start", handlers.start, methods=["POST"]),
            Route(job + "/results/{name}", handlers.result),
        ],
        middleware=[Middleware(Guard, settings=settings)],
        exception_handlers={HTTPException: _refused, UploadError: _upload_failed},
        lifespan=sweeping,
    )
    app.router.redirect_slashes = False
    return app


class _Handlers:
    """The answers to the page's requests."""

    def __init__(self, queue: JobQueue, facts: ModelFacts) -> None:
        self._queue = queue
        self._settings: ServeSettings = queue.settings
        self._facts = facts

    async def info(self, _: Request) -> Response:
        """What the page needs to know before anything is uploaded."""
        settings = self._settings
        return JSONResponse(
            {
                "version": __version__,
                "suffixes": [suffix for suffix in ALLOWED_SUFFIXES if suffix],
                "max_upload_bytes": settings.max_upload_bytes,
                "max_files": settings.max_files,
                "keep_s": settings.keep_s,
                "classes": self._facts.classes,
                "device": self._facts.device,
            }
        )

    async def create(self, request: Request) -> Response:
        """Begin a job; the query tells how many files and bytes are to come."""
        files = _number_in(request, "files", most=self._settings.max_files)
        announced = _number_in(request, "bytes", most=self._settings.max_upload_bytes)
        if files < 1:
            raise HTTPException(400, "No file was chosen.")
        free = await run_in_threadpool(self._free_bytes)
        if announced + self._queue.bytes_to_come() + _RESERVE_BYTES > free:
            raise HTTPException(507, "The server's disk is too full for this scan.")
        try:
            job = await run_in_threadpool(
                self._queue.create, announced_files=files, announced_bytes=announced
            )
        except QueueFullError:
            raise HTTPException(
                503, "Too many scans are waiting. Try again when one of them is done."
            ) from None
        return JSONResponse(self._queue.status(job), 201)

    async def upload(self, request: Request) -> Response:
        """Take one file; the query tells which of the known endings it has."""
        job = self._job_of(request)
        number = parse_number(request.path_params["number"], below=job.announced_files)
        suffix = request.query_params.get("suffix", "")
        if number is None or suffix not in ALLOWED_SUFFIXES:
            raise HTTPException(404, "There is no such file in this scan.")
        if job.state is not State.UPLOADING:
            raise HTTPException(409, "This scan takes no more files.")
        path = job.upload_folder / uploaded_name(number, suffix)
        job.receiving += 1
        try:
            await receive_file(request, path, job, self._queue)
            job.files[number] = path
        except UploadError as error:
            await run_in_threadpool(self._queue.fail, job, str(error))
            raise
        except GoneError:
            # A job that failed meanwhile stays, to say why.
            if job.state is State.UPLOADING:
                await run_in_threadpool(self._queue.delete, job.job_id)
            return Response(status_code=404)
        finally:
            await run_in_threadpool(self._queue.release, job)
        return Response(status_code=204)

    async def start(self, request: Request) -> Response:
        """Let a job wait for its turn, once all its files are here."""
        job = self._job_of(request)
        if job.state is not State.UPLOADING:
            raise HTTPException(409, "This scan has been started already.")
        missing = job.announced_files - len(job.files)
        if missing or job.receiving:
            raise HTTPException(409, f"{max(missing, 1)} files of this scan have not arrived.")
        self._queue.submit(job)
        return JSONResponse(self._queue.status(job), 202)

    async def status(self, request: Request) -> Response:
        """How far a job is."""
        return JSONResponse(self._queue.status(self._job_of(request)))

    async def delete(self, request: Request) -> Response:
        """Stop a job if need be, and remove all that is left of it."""
        await run_in_threadpool(self._queue.delete, self._job_of(request).job_id)
        return Response(status_code=204)

    async def result(self, request: Request) -> Response:
        """Send a file that the job has listed."""
        result = self._job_of(request).results.get(request.path_params["name"])
        if result is None or not result.path.is_file():
            raise HTTPException(404, "There is no such result, or no longer.")
        shown = result.kind == "page" and "download" not in request.query_params
        # Without a name in this header the browser takes the one that the page's link gives.
        headers = {"content-disposition": "inline" if shown else "attachment"}
        if shown:
            headers["content-security-policy"] = VIEWER_POLICY
        media_type = _MEDIA_TYPES.get(result.kind, "application/octet-stream")
        return FileResponse(result.path, headers=headers, media_type=media_type)

    def _job_of(self, request: Request) -> Job:
        job = self._queue.find(request.path_params["job_id"])
        if job is None:
            raise HTTPException(404, "There is no such scan, or no longer.")
        return job

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._queue.folder).free


def _static(package: str, name: str, media_type: str) -> Any:
    """Return a handler that sends a file of the package, which is read once."""
    content = resources.files(package).joinpath(name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def _number_in(request: Request, key: str, *, most: int) -> int:
    """Return a whole number of the query; 0 when it is missing.

    Raises:
        HTTPException: 400 when it is no number, 413 when it is above ``most``.
    """
    text = request.query_params.get(key, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise HTTPException(400, f"{key} must be a whole number.")
    if int(text) > most:
        limit = f"{most / 1e6:g} MB" if key == "bytes" else f"{most} files"
        raise HTTPException(413, f"The scan is larger than {limit}, the limit.")
    return int(text)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _upload_failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, UploadError)
    # The rest of the body is not read, so the connection cannot be used again.
    return JSONResponse({"error": str(error)}, error.status, headers={"connection": "close"})


async def _sweep(queue: JobQueue) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        await run_in_threadpool(queue.sweep)
