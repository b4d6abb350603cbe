"""Run a command and watch what it uses, as the challenges on efficient segmentation do.

Every ``INTERVAL_S`` the resident memory of the command and all of its children is read and, where
there is a GPU, how much more of its memory is used than before. Time runs from before the process
starts until it has ended. The area is the integral of memory over time. Linux only: it reads /proc.
Source: the protocol of FLARE (Ma et al. 2024), 0.1 s sampling, GPU memory and its area.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread

from samcancer.errors import InputError

INTERVAL_S = 0.1
"""Time between samples."""

MIB = 2**20

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a command used."""

    wall_s: float
    """Process start and end included."""
    peak_bytes: int
    """Most resident memory, the children's included."""
    area_byte_s: float
    """Resident memory integrated over time."""
    gpu_peak_bytes: int | None
    """Most GPU memory over what was used before; None without a GPU."""
    gpu_area_byte_s: float | None
    output: str
    """What it wrote to standard output."""


class _Curve:
    """Memory over time, sample by sample."""

    def __init__(self, started: float) -> None:
        self.last = started
        self.peak_bytes = 0
        self.area_byte_s = 0.0

    def add(self, used_bytes: int) -> None:
        """Let the memory count for the time since the last sample."""
        now = time.perf_counter()
        self.area_byte_s += used_bytes * (now - self.last)
        self.peak_bytes = max(self.peak_bytes, used_bytes)
        self.last = now


def run_watched(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end and return what it used.

    Raises:
        InputError: When the command fails, or the system has no /proc.
    """
    if not _PROC.joinpath("self/statm").exists():
        raise InputError("memory is read from /proc, which this system lacks", mend="use Linux")
    with TemporaryFile("w+", encoding="utf-8") as output, _gpu_curve() as gpu:
        started = time.perf_counter()
        memory = _Curve(started)
        process = subprocess.Popen(command, stdout=output, env=env)
        highest_bytes = _watch(process, memory)
        wall_s = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise InputError(f"exit status {process.returncode} of {' '.join(command)[:200]}")
    return Usage(
        wall_s=wall_s,
        peak_bytes=max(memory.peak_bytes, highest_bytes),
        area_byte_s=memory.area_byte_s,
        gpu_peak_bytes=None if gpu is None else gpu.peak_bytes,
        gpu_area_byte_s=None if gpu is None else gpu.area_byte_s,
        output=text,
    )


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process; 0 when it has ended."""
    with contextlib.suppress(OSError, IndexError):
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


def high_water_bytes(pid: int | str = "self") -> int:
    """Return the most memory a process has held at once; unlike ru_maxrss, none of its parent's."""
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def tree_resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and all its children."""
    return sum(map(resident_bytes, process_tree(pid)))


def process_tree(pid: int) -> list[int]:
    """Return a process and all its children, and theirs."""
    return [pid, *(below for child in _children(pid) for below in process_tree(child))]


def open_files(pid: int) -> int:
    """Return how many file descriptors a process has; 0 when it has ended."""
    with contextlib.suppress(OSError):
        return len(list((_PROC / str(pid) / "fd").iterdir()))
    return 0


def _watch(process: subprocess.Popen[bytes], memory: _Curve) -> int:
    """Sample until the process ends; return its own high-water mark as last read."""
    highest_bytes = 0
    due = time.perf_counter()
    while True:
        memory.add(tree_resident_bytes(process.pid))
        highest_bytes = max(highest_bytes, high_water_bytes(process.pid))
        due += INTERVAL_S
        try:
            process.wait(timeout=max(due - time.perf_counter(), 0.0))
        except subprocess.TimeoutExpired:
            continue
        return highest_bytes


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


@contextlib.contextmanager
def _gpu_curve() -> Iterator[_Curve | None]:
    """Yield the memory curve of the first GPU, filled while the block runs; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield None
        return
    words = ["--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    sampling = [program, *words, f"--loop-ms={round(1000 * INTERVAL_S)}"]
    with subprocess.Popen(sampling, stdout=subprocess.PIPE, text=True) as sampler:
        assert sampler.stdout is not None  # it was asked for
        try:
            before = sampler.stdout.readline().strip()
            if not before.isdigit():
                yield None
                return
            curve = _Curve(time.perf_counter())
            lines = sampler.stdout
            reader = Thread(target=lambda: _follow(lines, int(before), curve), daemon=True)
            reader.start()
            yield curve
        finally:
            sampler.terminate()
        reader.join()


def _follow(lines: Iterator[str], before_mib: int, curve: _Curve) -> None:
    for line in lines:
        if line.strip().isdigit():
            curve.add(max(int(line) - before_mib, 0) * MIB)


def describe(usage: Usage) -> str:
    """Return a line for people."""
    parts = [
        f"{usage.wall_s:.2f} s",
        f"peak {usage.peak_bytes / MIB:.0f} MiB",
        f"area {usage.area_byte_s / MIB:.0f} MiB s",
    ]
    if usage.gpu_peak_bytes is not None and usage.gpu_area_byte_s is not None:
        parts.append(f"GPU peak {usage.gpu_peak_bytes / MIB:.0f} MiB")
        parts.append(f"GPU area {usage.gpu_area_byte_s / MIB:.0f} MiB s")
    return ", ".join(parts)
