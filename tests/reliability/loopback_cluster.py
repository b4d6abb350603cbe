"""A Dask scheduler and workers as processes of their own, to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

from samcancer.files import read_json

ROOT = Path(__file__).resolve().parents[2]

_PATIENCE_S = 180.0

_LOOK_S = 0.01


class LoopbackCluster:
    """A scheduler, and workers by name."""

    def __init__(self, folder: Path) -> None:
        """Start the scheduler; its files go below ``folder``."""
        self._folder = folder
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        file = folder / "scheduler.json"
        self._scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)
        )
        _wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        self.address = str(read_json(file)["address"])
        self.client = Client(self.address, set_as_default=False)

    def add(self, *names: str) -> None:
        """Start workers, of one thread each."""
        for name in names:
            self._workers[name] = self._start(
                "worker", self.address, "--name", name, "--nthreads", "1", "--no-nanny",
                *("--memory-limit", "0", "--local-directory", str(self._folder)),
            )  # fmt: skip
        _wait_for(lambda: len(self.alive()) == len(self._workers))

    def alive(self) -> list[str]:
        """Return the names of the workers that the scheduler knows."""
        return [w["name"] for w in self.client.scheduler_info(n_workers=-1)["workers"].values()]

    def kill_one_at_work(self) -> None:
        """Kill -9 a worker that does a case, once another case is done."""
        deadline = time.monotonic() + _PATIENCE_S
        already = self.client.run_on_scheduler(_look)["done"]
        while time.monotonic() < deadline:
            seen = self.client.run_on_scheduler(_look)
            if seen["done"] > already and seen["busy"]:
                worker = self._workers.pop(seen["busy"][0])
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                return
            time.sleep(_LOOK_S)
        raise AssertionError("no worker was at work after a case was done")

    def retried(self) -> int:
        """Return how many tasks lost their worker so far."""
        return int(self.client.run_on_scheduler(_look)["retried"])

    def close(self) -> None:
        """End all processes."""
        self.client.close()
        for process in (*self._workers.values(), self._scheduler):
            process.terminate()
            process.wait()

    def _start(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
            "OMP_NUM_THREADS": "1",
        }
        module = f"distributed.cli.dask_{kind}"
        return subprocess.Popen(
            [sys.executable, "-m", module, *words, "--no-dashboard"],
            env=environment,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def killing_one(cluster: LoopbackCluster) -> Iterator[None]:
    """Kill a worker while the block runs a command on the cluster."""
    problems: list[BaseException] = []

    def kill() -> None:
        try:
            cluster.kill_one_at_work()
        except BaseException as problem:
            problems.append(problem)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()
    assert problems == []


def _look(dask_scheduler: Any) -> dict[str, Any]:
    """Return, from the scheduler: names of busy workers, cases done and retried so far."""
    prefixes = dask_scheduler.task_prefixes.values()
    return {
        "busy": [str(w.name) for w in dask_scheduler.workers.values() if w.processing],
        "done": sum(prefix.state_counts["memory"] for prefix in prefixes),
        "retried": sum(prefix.suspicious for prefix in prefixes),
    }


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(_LOOK_S)
