"""A worker ends with its parent, however that ends, and leaves Ctrl-C to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 60.0

PARENT = """
import multiprocessing, sys, time
from samcancer.processes import start_as_worker

def work():
    start_as_worker()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    context.Process(target=work).start()
    time.sleep(600)
"""


@contextmanager
def parent_and_worker(method: str, script: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process and the pid of its worker."""
    with subprocess.Popen(
        [sys.executable, script, method],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            yield parent, worker
        finally:
            parent.kill()


def is_there(pid: int) -> bool:
    """Return whether the process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_ends_with_its_killed_parent_and_not_at_ctrl_c(method, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with parent_and_worker(method, str(script)) as (parent, worker):
        os.kill(worker, signal.SIGINT)
        time.sleep(0.2)
        assert is_there(worker)
        parent.kill()
        deadline = time.monotonic() + PATIENCE_S
        while is_there(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_there(worker)
