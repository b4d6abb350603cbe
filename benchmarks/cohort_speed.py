"""Throughput of cohorts: prepare-slices and infer-volume with one worker and with two.

A worker has one thread, so that two workers may do twice as much; parallel efficiency is half the
quotient of the throughputs. The rate counts from the first finished case to the last, without the
start of processes and the loading of networks, which the seconds of the whole command include. CPU
time per case tells, beside the load average, whether other programs took part of the machine.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import workload as made
from results_page import markdown_table

from samcancer.errors import InputError

WORKERS = (1, 2)

WORKLOAD = made.Workload(encoder="vit_tiny", image_size=128, cnn_width=8, pixels=256, threads=1)

PREPARED_SIZE = 256

_INTERVAL_S = 0.1
"""Between two looks at the CPU time of the processes."""

PARTS = ("prepare", "infer")


def measure(part: str, folder: Path, cases: int) -> list[dict[str, float]]:
    """Return the figures of a stage for each number of workers.

    Args:
        part: One of PARTS.
        folder: Where scans are made, once for all parts, and results go.
        cases: Of each of four synthetic sets.
    """
    raw = folder / "raw"
    if not raw.is_dir():
        words = ["make-phantoms", "--out", str(raw), "--cases", str(cases), "--seed", "7"]
        subprocess.run([*made.COMMAND, *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    sets = sorted(raw.glob("Dataset90[1-4]*"))
    run = made.write_run(folder / f"run-{part}", WORKLOAD)
    found: list[dict[str, float]] = []
    for workers in WORKERS:
        output = folder / f"{part}-{workers}"
        if part == "prepare":
            words = ["prepare-slices", "--size", PREPARED_SIZE]
            words += [word for found_set in sets for word in ("--input", found_set)]
            finished = "cases/**/*.h5"
        else:
            scans = [found_set / "imagesTr" for found_set in sets]
            words = ["infer-volume", "--input", *scans, "--model", run, "--device", "cpu"]
            words += ["--threads", workers]  # shared out: one each
            finished = "*_*.json"
        words += ["--output", output, "--workers", workers, "--quiet"]
        found.append(_timed([str(word) for word in words], output, finished))
        first = found[0]["cases_per_minute"]
        found[-1]["workers"] = workers
        found[-1]["efficiency"] = found[-1]["cases_per_minute"] / first / workers
    return found


def cohorts_markdown(figures: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        [
            part,
            str(row["workers"]),
            str(row["cases"]),
            f"{row['seconds']:.1f}",
            f"{row['cases_per_minute']:.1f}",
            f"{row['cpu_seconds_per_case']:.2f}",
            f"{row['efficiency']:.0%}",
        ]
        for part in PARTS
        for row in figures.get(part, ())
    ]
    header = ["stage", "workers", "cases", "seconds", "cases/min", "CPU s/case", "efficiency"]
    table = markdown_table(header, rows)
    return (
        f"`{figures['command']}` on {figures['machine']}; synthetic patients, one thread "
        f"a worker; load average before the start {figures['load_average_before']:.1f}.\n\n{table}"
    )


def _timed(words: list[str], output: Path, finished: str) -> dict[str, float]:
    """Run a command in a process of its own; CPU time is that of all its processes."""
    started = time.monotonic()
    cpu_s: dict[int, float] = {}
    with subprocess.Popen(
        [*made.COMMAND, *words], env=made.environment(1), stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            _add_cpu_seconds(process.pid, cpu_s)
            time.sleep(_INTERVAL_S)
    seconds = time.monotonic() - started
    if process.returncode != 0:
        raise InputError(f"samcancer {words[0]} left with {process.returncode}")
    times = sorted(path.stat().st_mtime for path in output.glob(finished))
    return {
        "seconds": seconds,
        "cases": len(times),
        "cases_per_minute": 60 * (len(times) - 1) / (times[-1] - times[0]),
        "cpu_seconds_per_case": sum(cpu_s.values()) / len(times),
    }


def _add_cpu_seconds(pid: int, found: dict[int, float]) -> None:
    """Note what a process and all below it have computed: nobody waits for a fork server's."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                found[each.pid] = times.user + times.system
