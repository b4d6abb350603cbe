"""Scans under way: one is segmented at a time, a few wait, and what is done goes after a while.

A job belongs to whoever knows its id, which cannot be guessed; jobs are never listed. Requests
change jobs from the event loop and one worker thread segments; both hold the queue's lock where
they could meet. Logs name the first characters of a job's id, its size and how it went, and nothing
else.
"""

from __future__ import annotations

import enum
import errno
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from samcancer.errors import InputError
from samcancer.serve.naming import RESULT_FOLDER, UPLOAD_FOLDER, shown_line
from samcancer.serve.settings import ServeSettings

_log = logging.getLogger(__name__)

_ID_BYTES = 16
"""128 random bits."""

_LOGGED_ID = 8
"""Characters of an id in the log: enough to tell jobs apart, too few to reach one."""

_STOP_S = 5.0
"""Wait for the worker to leave its scan when the server stops."""


class State(str, enum.Enum):
    """Where a job stands."""

    UPLOADING = "uploading"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Stage(str, enum.Enum):
    """What is being done to the scan that runs."""

    READING = "reading"
    SEGMENTING = "segmenting"
    WRITING = "writing"
    DRAWING = "drawing"


class CancelledError(Exception):
    """The job was deleted while it ran, or the server stops."""


class QueueFullError(Exception):
    """As many scans wait as may."""


@dataclass(frozen=True)
class Result:
    """One file to fetch."""

    path: Path
    kind: str
    """mask, report, page, lesions, dicom or other."""
    size_bytes: int


class Progress(Protocol):
    """What segmenting tells as it goes on; every call may end it with :class:`CancelledError`."""

    def stage(self, stage: Stage) -> None:
        """Begin the next step."""

    def expect_slices(self, count: int) -> None:
        """Say how many slices there are."""

    def add_slices(self, count: int) -> None:
        """Say that so many more are done."""


Segment = Callable[[Sequence[Path], Path, Progress], "dict[str, Result]"]
"""From the uploaded files, in order, and an empty folder to file name -> result."""


@dataclass(eq=False)
class Job:
    """One scan, from the first byte to the removal of its results."""

    job_id: str
    folder: Path
    touched_s: float
    """When a request or the worker last changed it, by the queue's clock."""
    created_s: float
    announced_files: int
    announced_bytes: int
    """What its files are said to take together; never relied on."""
    state: State = State.UPLOADING
    stage: Stage = Stage.READING
    received_bytes: int = 0
    receiving: int = 0
    """Files that arrive at this moment."""
    files: dict[int, Path] = field(default_factory=dict)
    slices_done: int = 0
    slices_total: int | None = None
    segmenting_since_s: float | None = None
    error: str | None = None
    results: dict[str, Result] = field(default_factory=dict)
    deleted: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """What the log calls it."""
        return self.job_id[:_LOGGED_ID]

    @property
    def upload_folder(self) -> Path:
        """Where its uploaded files lie."""
        return self.folder / UPLOAD_FOLDER


class JobQueue:
    """All jobs of a server, and the thread that segments them one by one."""

    def __init__(
        self,
        folder: Path,
        segment: Segment,
        settings: ServeSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take jobs at once; they are segmented from :meth:`start` on.

        Args:
            folder: Private folder, one subfolder a job.
            segment: Segments one scan; called in the worker thread only.
            settings: Limits.
            clock: Seconds that never go back.
        """
        self.settings = settings
        self.folder = folder
        self._segment = segment
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        """In the order of their creation."""
        self._order: list[Job] = []
        """Jobs that wait, the next one first."""
        self._changed = threading.Condition()
        self._stopping = False
        # A daemon: a chunk of a large network must not keep a stopping server alive.
        self._worker = threading.Thread(target=self._work, name="segment", daemon=True)

    def start(self) -> None:
        """Begin to segment."""
        self._worker.start()

    def stop(self) -> None:
        """Leave the scan at hand, if any, and remove all jobs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for job_id in list(self._jobs):
            self.delete(job_id)
        if self._worker.is_alive():
            self._worker.join(_STOP_S)

    def create(self, *, announced_files: int, announced_bytes: int) -> Job:
        """Return a new job that takes files.

        Args:
            announced_files: How many are to come.
            announced_bytes: What they are said to take together.

        Raises:
            QueueFullError: When as many scans wait as may.
        """
        with self._changed:
            under_way = [j for j in self._jobs.values() if j.state in _UNDER_WAY]
            if len(under_way) > self.settings.waiting:
                raise QueueFullError
            job_id = secrets.token_hex(_ID_BYTES)
            now = self._clock()
            folder = self.folder / job_id
            job = Job(job_id, folder, now, now, announced_files, announced_bytes)
            job.upload_folder.mkdir(parents=True, mode=0o700)
            self._jobs[job_id] = job
        return job

    def bytes_to_come(self) -> int:
        """Return what the scans that are being uploaded still need of the disk."""
        with self._changed:
            arriving = [j for j in self._jobs.values() if j.state is State.UPLOADING]
            return sum(max(0, job.announced_bytes - job.received_bytes) for job in arriving)

    def find(self, job_id: str) -> Job | None:
        """Return the job of an id, or None when there is none, or no longer."""
        with self._changed:
            return self._jobs.get(job_id)

    def touch(self, job: Job) -> None:
        """Note that bytes of the job have arrived."""
        job.touched_s = self._clock()

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn."""
        with self._changed:
            if job.deleted.is_set():
                return
            job.state = State.WAITING
            job.touched_s = self._clock()
            self._order.append(job)
            self._changed.notify_all()
        _log.info("job %s: %d files, %.1f MB", job.name, len(job.files), job.received_bytes / 1e6)

    def fail(self, job: Job, message: str) -> None:
        """Keep a job only to say what went wrong, and remove its files."""
        with self._changed:
            job.state, job.error, job.touched_s = State.FAILED, message, self._clock()
        self._remove_files_of(job)
        _log.info("job %s: failed", job.name)

    def delete(self, job_id: str) -> bool:
        """Forget a job and remove its files; one that runs is stopped first. Return whether it was.

        A job that runs, or takes a file at this moment, is forgotten at once and its files go when
        whoever uses them lets go.
        """
        with self._changed:
            job = self._jobs.pop(job_id, None)
            if job is None:
                return False
            job.deleted.set()
            if job in self._order:
                self._order.remove(job)
            in_use = job.state is State.RUNNING or job.receiving > 0
        if not in_use:
            self._remove_files_of(job)
        _log.info("job %s: deleted", job.name)
        return True

    def release(self, job: Job) -> None:
        """Note that a file has arrived, or will not; the last one of a deleted job clears up."""
        with self._changed:
            job.receiving -= 1
            last = job.deleted.is_set() and job.receiving == 0
        if last:
            self._remove_files_of(job)

    def sweep(self) -> None:
        """Delete jobs whose results have been kept long enough, and uploads that have stopped."""
        now = self._clock()
        with self._changed:
            old = [job.job_id for job in self._jobs.values() if self._is_over(job, now)]
        for job_id in old:
            self.delete(job_id)

    def position(self, job: Job) -> int:
        """Return how many scans come before a waiting one, the one that runs included."""
        with self._changed:
            running = sum(j.state is State.RUNNING for j in self._jobs.values())
            return running + (self._order.index(job) if job in self._order else 0)

    def status(self, job: Job) -> dict[str, Any]:
        """Return what a page shows of a job."""
        told: dict[str, Any] = {"id": job.job_id, "state": job.state.value}
        if job.state is State.WAITING:
            told["position"] = self.position(job)
        if job.state is State.RUNNING:
            told |= {
                "stage": job.stage.value,
                "slices_done": job.slices_done,
                "slices_total": job.slices_total,
                "seconds_left": self._seconds_left(job),
            }
        if job.state is State.FAILED:
            told["error"] = job.error
        if job.state is State.DONE:
            told["results"] = [
                {"name": name, "kind": result.kind, "bytes": result.size_bytes}
                for name, result in job.results.items()
            ]
            told["kept_s"] = max(0, round(job.touched_s + self.settings.keep_s - self._clock()))
        return told

    def _seconds_left(self, job: Job) -> int | None:
        if not job.slices_done or job.slices_total is None or job.segmenting_since_s is None:
            return None
        passed_s = self._clock() - job.segmenting_since_s
        return round(passed_s / job.slices_done * (job.slices_total - job.slices_done))

    def _is_over(self, job: Job, now: float) -> bool:
        if job.state is State.UPLOADING:
            settings = self.settings
            idle = now - job.touched_s > 2 * settings.idle_s
            return idle or now - job.created_s > settings.upload_s
        return job.state in _ENDED and now - job.touched_s > self.settings.keep_s

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started = self._clock()
            outcome = self._run(job)
            self._end(job, outcome)
            how = "failed" if isinstance(outcome, str) else "done" if outcome else "stopped"
            _log.info("job %s: %s after %.1f s", job.name, how, self._clock() - started)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._order and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            job = self._order.pop(0)
            job.state = State.RUNNING
            return job

    def _run(self, job: Job) -> dict[str, Result] | str | None:
        """Return the results, or one line about what went wrong, or None when it was deleted."""
        output = job.folder / RESULT_FOLDER
        try:
            output.mkdir(mode=0o700)
            uploads = [job.files[index] for index in sorted(job.files)]
            return self._segment(uploads, output, _JobProgress(job, self._clock))
        except CancelledError:
            return None
        except InputError as error:
            return shown_line(error)
        except MemoryError:
            return "The scan needs more memory than this machine has free."
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return "The server's disk is full."
            return self._unexpected(job, error)
        except Exception as error:
            return self._unexpected(job, error)

    def _unexpected(self, job: Job, error: Exception) -> str:
        # Its text is not logged: it may quote what is in the scan.
        _log.error("job %s: %s", job.name, type(error).__name__)
        _log.debug("traceback of job %s", job.name, exc_info=error)
        return f"Segmenting failed unexpectedly ({type(error).__name__})."

    def _end(self, job: Job, outcome: dict[str, Result] | str | None) -> None:
        # Before anyone is told, so that a scan that is done is a scan whose upload is gone.
        shutil.rmtree(job.upload_folder, ignore_errors=True)
        if not isinstance(outcome, dict):
            self._remove_files_of(job)
        with self._changed:
            job.touched_s = self._clock()
            if isinstance(outcome, dict):
                job.state, job.results = State.DONE, outcome
            else:
                job.state, job.error = State.FAILED, outcome
            gone = job.deleted.is_set()
        if gone:
            self._remove_files_of(job)

    def _remove_files_of(self, job: Job) -> None:
        shutil.rmtree(job.folder, ignore_errors=True)


_UNDER_WAY = (State.UPLOADING, State.WAITING, State.RUNNING)

_ENDED = (State.DONE, State.FAILED)


@dataclass(frozen=True)
class _JobProgress:
    """Notes how far a job is, and ends it when it was deleted."""

    job: Job
    clock: Callable[[], float]

    def stage(self, stage: Stage) -> None:
        """See :class:`Progress`."""
        self._stop_if_deleted()
        self.job.stage = stage
        if stage is Stage.SEGMENTING:
            self.job.segmenting_since_s = self.clock()

    def expect_slices(self, count: int) -> None:
        """See :class:`Progress`."""
        self.job.slices_total = count

    def add_slices(self, count: int) -> None:
        """See :class:`Progress`."""
        self.job.slices_done += count
        self._stop_if_deleted()

    def _stop_if_deleted(self) -> None:
        if self.job.deleted.is_set():
            raise CancelledError
