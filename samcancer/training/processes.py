"""The processes of one training: started and watched on this machine, or by torchrun on several.

``--devices N`` makes the command a watcher that trains nothing itself: it starts N processes of the
same command, passes signals on, and when one of them is lost ends the others and says which it was.
Under torchrun its agents do that. Either way a process learns from the same variables who it is.

A lost process on the same machine ends the training within :data:`TERMINATION_S` seconds more than
a second (torchrun: 30 s), a silent one, as of a machine that lost its power, after
:data:`SILENCE_S`. What is on disk then is the state of the last finished epoch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from samcancer.errors import InputError

SILENCE_S = 1800
"""Seconds that a process waits for another one in a step or a validation."""

TERMINATION_S = 10
"""Seconds that processes have to leave after they were asked to, before they are killed."""

_TURN_S = 20.0
"""Seconds that a process other than the first waits before it tells of an error: what all have
found is told by the first one, at whose end the others are ended."""

_BAD_INPUT = 2
"""Status of a process that has told of an error in one line."""

_LEAVING_S = {0: 60.0, 130: 60.0}
"""Seconds that the others have to leave by themselves after one left with a status; else a second.
Processes that finish or were asked to stop leave together."""

_POLL_S = 0.05
_WATCH_S = 1.0

_WATCHER_VARIABLE = "SAMCANCER_WATCHER"
"""Holds the pid of the watcher."""

_TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, kw_only=True)
class World:
    """Who this process is among those of a training."""

    rank: int
    """From 0 on, over all machines."""
    size: int
    """Processes on all machines."""
    local_size: int
    """Processes on this machine."""
    watcher: int | None
    """Pid of our own watcher; None under torchrun."""


class LostProcessError(InputError):
    """Another process of the training does not answer any more."""


def launched_world(environment: Mapping[str, str] | None = None) -> World | None:
    """Return who this process is; None when it was started alone.

    Args:
        environment: Of the process; None takes its own.
    """
    given = os.environ if environment is None else environment
    watcher = given.get(_WATCHER_VARIABLE)
    if watcher is None and _TORCHRUN_VARIABLE not in given:
        return None
    return World(
        rank=int(given["RANK"]),
        size=int(given["WORLD_SIZE"]),
        local_size=int(given["LOCAL_WORLD_SIZE"]),
        watcher=None if watcher is None else int(watcher),
    )


@contextlib.contextmanager
def one_of(world: World) -> Iterator[None]:
    """Behave as one of several processes: end with the watcher, and tell of errors in turn."""
    if world.watcher is not None:
        threading.Thread(target=_leave_with, args=(world.watcher,), daemon=True).start()
    try:
        yield
    except LostProcessError:
        if world.watcher is not None:
            time.sleep(TERMINATION_S)  # the watcher says which one and ends this one
        raise
    except InputError:
        if world.rank:
            time.sleep(_TURN_S)
        raise


def run_processes(command: Sequence[str], count: int) -> int:
    """Run a command in several processes that train together; return the status to leave with.

    Args:
        command: Program and arguments.
        count: Processes.

    Raises:
        InputError: When one of them was ended by a signal, or by an error that has no line.
    """
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        _WATCHER_VARIABLE: str(os.getpid()),
    }
    processes: list[subprocess.Popen[bytes]] = []
    with _passing_signals_on(processes):
        try:
            for rank in range(count):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                # a session of its own: Ctrl-C comes once, from here
                environment = {**os.environ, **shared, **own}
                process = subprocess.Popen(  # noqa: S603 - our own command
                    command, env=environment, start_new_session=True
                )
                processes.append(process)
            first = _first_to_leave(processes)
            _wait(processes, _LEAVING_S.get(processes[first].returncode, 1.0))
        finally:
            _end(processes)
    statuses = [int(process.returncode) for process in processes]
    lost = [rank for rank in (first, *range(count)) if statuses[rank] not in _LEAVING_S]
    if not lost:
        return max(statuses)
    if statuses[lost[0]] != _BAD_INPUT:
        raise InputError(
            f"process {lost[0]} of {count} {_how(statuses[lost[0]])}, which ended the training",
            mend="the same command with --resume goes on from the last finished epoch",
        )
    return _BAD_INPUT


def _first_to_leave(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for a process to end and return its number; of several one that was killed, if any."""
    while True:
        ended = [rank for rank, process in enumerate(processes) if process.poll() is not None]
        if ended:
            return min(ended, key=lambda rank: int(processes[rank].returncode))
        time.sleep(_POLL_S)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until all have ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(_POLL_S)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)
        _wait(processes, TERMINATION_S)


@contextlib.contextmanager
def _passing_signals_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Send SIGINT and SIGTERM to the processes instead of ending this one."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_with(watcher: int) -> None:
    """End this process when the watcher is gone, however it was killed."""
    while os.getppid() == watcher:
        time.sleep(_WATCH_S)
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def command_line(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a verb in a new process."""
    return [sys.executable, "-m", "samcancer", *arguments]
