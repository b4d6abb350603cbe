from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serve_fakes import Client, Clock, MakeClient, Scripted

from samcancer.serve.jobs import JobQueue
from samcancer.serve.settings import ServeSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "volume_io"))  # for ct_series


@pytest.fixture
def segment() -> Scripted:
    return Scripted()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The server's private folder."""
    path = tmp_path / "private"
    path.mkdir()
    return path


@pytest.fixture
def make_queue(
    folder: Path, segment: Scripted, clock: Clock
) -> Iterator[Callable[[ServeSettings], JobQueue]]:
    queues: list[JobQueue] = []

    def make(settings: ServeSettings) -> JobQueue:
        queue = JobQueue(folder, segment, settings, clock=clock)
        queue.start()
        queues.append(queue)
        return queue

    yield make
    segment.go.set()
    for queue in queues:
        queue.stop()


@pytest.fixture
def make_client(make_queue: Callable[[ServeSettings], JobQueue]) -> Iterator[MakeClient]:
    clients: list[Client] = []

    def make(**settings: object) -> Client:
        client = Client(make_queue(ServeSettings(**settings)))  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    return make_client()
