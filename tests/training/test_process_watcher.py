"""The watcher with processes that train nothing; what trains is in test_ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samcancer.errors import InputError
from samcancer.training import processes
from samcancer.training.processes import (
    LostProcessError,
    World,
    launched_world,
    one_of,
    run_processes,
)

SLEEP = "import time; time.sleep(60)"
ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os; rank = int(os.environ['RANK'])\n{code}"]


def test_each_process_learns_who_it_is(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
names = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "SAMCANCER_WATCHER")
Path({str(tmp_path)!r}, str(rank)).write_text(" ".join(os.environ[name] for name in names))
"""
    assert run_processes(python(code), 3) == 0
    for rank in range(3):
        expected = f"{rank} 3 3 127.0.0.1 {os.getpid()}"
        assert (tmp_path / str(rank)).read_text() == expected


def test_a_killed_process_ends_the_others_and_is_named() -> None:
    started = time.monotonic()
    code = f"if rank == 1: os.kill(os.getpid(), 9)\n{SLEEP}"
    with pytest.raises(
        InputError, match=r"process 1 of 3 was ended by SIGKILL \(out of memory\?\)"
    ):
        run_processes(python(code), 3)
    assert time.monotonic() - started < processes.TERMINATION_S


def test_a_process_that_fails_without_a_line_is_named_with_its_status() -> None:
    code = f"import sys\nif rank == 2: sys.exit(7)\n{SLEEP}"
    with pytest.raises(InputError, match=r"process 2 of 3 ended with status 7.*--resume"):
        run_processes(python(code), 3)


def test_a_process_that_told_of_its_error_is_not_spoken_over() -> None:
    code = f"import sys\nif rank == 0: sys.exit(2)\n{SLEEP}"
    assert run_processes(python(code), 2) == 2


def test_a_process_that_ignores_the_request_to_leave_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "TERMINATION_S", 1)
    code = f"""
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 1: time.sleep(1); sys.exit(3)
{SLEEP}"""
    with pytest.raises(InputError, match="process 1 of 2 ended with status 3"):
        run_processes(python(code), 2)


def test_a_signal_to_the_watcher_reaches_every_process_once(tmp_path: Path) -> None:
    child = f"""
import signal, sys, time
from pathlib import Path
def leave(number, frame):
    with open({str(tmp_path)!r} + f"/signals{{rank}}", "a") as stream: stream.write("x")
    sys.exit(130)
signal.signal(signal.SIGTERM, leave)
Path({str(tmp_path)!r}, f"ready{{rank}}").write_text("ready")
time.sleep(60)"""
    watcher = (
        "import sys; from samcancer.training.processes import run_processes\n"
        f"sys.exit(run_processes({python(child)!r}, 2))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", watcher], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        wait_for(tmp_path / "ready0", tmp_path / "ready1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == ["x", "x"]


def test_no_process_outlives_a_killed_watcher(tmp_path: Path) -> None:
    child = f"""
import time
from pathlib import Path
from samcancer.training.processes import launched_world, one_of
with one_of(launched_world()):
    Path({str(tmp_path)!r}, f"pid{{rank}}").write_text(str(os.getpid()))
    time.sleep(60)"""
    watcher = (
        "import sys; from samcancer.training.processes import run_processes\n"
        f"sys.exit(run_processes({python(child)!r}, 2))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", watcher], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        wait_for(tmp_path / "pid0", tmp_path / "pid1")
        process.kill()
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(2)]
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_started_alone_belongs_to_no_world() -> None:
    assert launched_world({"RANK": "0", "WORLD_SIZE": "2", "SLURM_NTASKS": "2"}) is None


def test_torchrun_says_who_a_process_is() -> None:
    given = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8"}
    world = launched_world({**given, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert world == World(rank=5, size=8, local_size=4, watcher=None)


@pytest.mark.parametrize(("rank", "waits"), [(0, False), (3, True)])
def test_what_all_processes_find_wrong_is_told_by_the_first(
    rank: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    world = World(rank=rank, size=4, local_size=4, watcher=None)
    with pytest.raises(InputError, match="a fact"), one_of(world):
        raise InputError("a fact")
    assert bool(slept) is waits


def test_under_torchrun_a_lost_process_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    world = World(rank=3, size=4, local_size=4, watcher=None)
    with pytest.raises(LostProcessError, match="gone"), one_of(world):
        raise LostProcessError("gone")
    assert slept == []


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
