"""A client that talks to the application without a network, and scans that end when told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from samcancer.serve.app import ModelFacts, make_app
from samcancer.serve.jobs import JobQueue, Progress, Result, Stage

OURS = {"x-samcancer": "1"}
"""What our page sends with every request that changes something."""

PATIENCE_S = 10.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """Segments by copying the scan; waits, fails and counts as a test says."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.seen: list[list[tuple[str, bytes]]] = []

    def __call__(
        self, uploads: Sequence[Path], output: Path, progress: Progress
    ) -> dict[str, Result]:
        self.seen.append([(path.name, path.read_bytes()) for path in uploads])
        progress.stage(Stage.SEGMENTING)
        progress.expect_slices(8)
        progress.add_slices(2)
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        progress.add_slices(6)
        if self.error is not None:
            raise self.error
        files = {"scan.nii.gz": ("mask", b"mask"), "scan.html": ("page", b"<p>page</p>")}
        for name, (_, content) in files.items():
            (output / name).write_bytes(content)
        return {
            name: Result(output / name, kind, len(content))
            for name, (kind, content) in files.items()
        }


class Client:
    """Calls the application in an event loop of its own; answers are httpx's."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.app = make_app(queue, ModelFacts(("liver lesion",), "cpu"))
        self._loop = asyncio.new_event_loop()

    def ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send one request; what changes something carries our header."""
        sent = {} if method == "GET" else dict(OURS)

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:8000", trust_env=False
            ) as client:
                request = client.build_request(
                    method, path, content=content, headers=sent | (headers or {})
                )
                return await client.send(request)

        return self._loop.run_until_complete(go())

    def create(self, *, files: int = 1, total: int = 4) -> str:
        """Begin a job and return its id."""
        answer = self.ask("POST", f"/api/jobs?files={files}&bytes={total}")
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def put(self, job_id: str, content: bytes = b"scan", *, number: int = 0) -> httpx.Response:
        """Send one file of a job."""
        path = f"/api/jobs/{job_id}/files/{number}?suffix=.nii.gz"
        return self.ask("PUT", path, content=content)

    def submit(self, content: bytes = b"scan") -> str:
        """Send a scan and let it wait for its turn; return its id."""
        job_id = self.create()
        assert self.put(job_id, content).status_code == 204
        assert self.ask("POST", f"/api/jobs/{job_id}/start").status_code == 202
        return job_id

    def status(self, job_id: str) -> dict[str, Any]:
        """What the page would be told."""
        found: dict[str, Any] = self.ask("GET", f"/api/jobs/{job_id}").json()
        return found

    def wait_for(self, job_id: str, state: str) -> dict[str, Any]:
        """Ask until a job is in a state."""
        wait_until(lambda: self.status(job_id)["state"] == state)
        return self.status(job_id)

    def close(self) -> None:
        self._loop.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Look every few milliseconds until it holds; fail after a while."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came true")


def files_in(folder: Path) -> list[str]:
    """Names of all files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


MakeClient = Callable[..., Client]
"""Returns a client of a server with the given settings."""
