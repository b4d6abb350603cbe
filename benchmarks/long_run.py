"""Many small scans through one ``infer-volume``: do memory, files, processes or folders pile up?

Each time a scan is finished the command and all of its children are looked at: resident memory,
open files, processes, and what lies in the folder for temporary files. The first
``WARM_UP_SHARE`` of the scans does not count. Memory may grow by ``GROWTH_LIMIT`` of itself over
100 scans, by the slope of a line fitted to the samples; open files, processes and temporary entries
may not be more all through the last quarter than ever in the first one, since what a scan has open
for a moment is seen or not. Linux only: it reads /proc.
Example: ``python benchmarks/long_run.py --scans 500 --workers 2``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import workload as made
from resource_use import MIB, open_files, process_tree, resident_bytes
from workload import Workload

from samcancer.files import TEMPORARY_PREFIX, write_json_atomic

SCANS = 500
GROWTH_LIMIT = 0.01
"""Most growth of memory over 100 scans, as a share of its mean."""
WARM_UP_SHARE = 0.5
"""Of the scans: caches fill, the allocator finds its size, and workers open their connections."""
FEWEST_FOR_GROWTH = 100
"""Scans, under which a slope says nothing."""
WORKLOAD = Workload(encoder="vit_tiny", image_size=32, cnn_width=4, pixels=64, threads=1)

_INTERVAL_S = 0.02
_SLICES = (4, 6, 9)
"""Lengths of the scans, in turn."""


@dataclass(frozen=True)
class Sample:
    """The command and its children after a scan."""

    finished: int
    """Scans."""
    resident_bytes: int
    open_files: int
    processes: int
    temporary: int
    """Entries of the folder for temporary files."""


@dataclass(frozen=True, kw_only=True)
class LongRun:
    """What was seen."""

    scans: int
    workers: int
    finished: int
    """Scans with a report."""
    samples: tuple[Sample, ...]
    seconds: float
    status: int
    left_processes: int
    """Still there after the command ended."""
    left_files: int
    """Temporary and unfinished files still there."""

    @property
    def growth(self) -> float | None:
        """Growth of memory over 100 scans as a share of its mean; None for too few scans."""
        if self.scans < FEWEST_FOR_GROWTH:
            return None
        counted = self._counted()
        memory = np.array([s.resident_bytes for s in counted], np.float64)
        slope = np.polyfit([s.finished for s in counted], memory, 1)[0]
        return float(100 * slope / memory.mean())

    def faults(self) -> list[str]:
        """Return what is wrong, a line each; nothing when all is well."""
        found = []
        if self.status != 0 or self.finished != self.scans:
            found.append(f"exit status {self.status}, {self.finished} of {self.scans} scans")
        if self.growth is not None and self.growth > GROWTH_LIMIT:
            found.append(f"memory grows by {self.growth:.2%} over 100 scans")
        counted = self._counted()
        quarter = max(1, len(counted) // 4)
        for name in ("open_files", "processes", "temporary"):
            most = max((getattr(sample, name) for sample in counted[:quarter]), default=0)
            fewest = min((getattr(sample, name) for sample in counted[-quarter:]), default=0)
            if fewest > most:
                found.append(f"{name.replace('_', ' ')}: {most} at first, {fewest} at last")
        if self.left_processes or self.left_files:
            found.append(f"{self.left_processes} processes and {self.left_files} files are left")
        return found

    def describe(self) -> str:
        """Return a line for people."""
        peak = max(sample.resident_bytes for sample in self.samples)
        growth = "" if self.growth is None else f", {self.growth:+.2%} over 100 scans"
        files = max(sample.open_files for sample in self.samples)
        left = f"{self.left_processes} processes and {self.left_files} files left over"
        return f"peak {peak / MIB:.0f} MiB{growth}, at most {files} open files, {left}"

    def _counted(self) -> list[Sample]:
        return [s for s in self.samples if s.finished >= WARM_UP_SHARE * self.scans]


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print what was seen as JSON, and leave with 1 when something piles up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=SCANS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON with every sample")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="samcancer-long-run-") as folder:
        run = watch(Path(folder), scans=args.scans, workers=args.workers)
    if args.output is not None:
        write_json_atomic(args.output, asdict(run))
    faults = run.faults()
    summary: dict[str, Any] = {"scans": run.scans, "workers": run.workers, "faults": faults}
    print(json.dumps({**summary, "seconds": run.seconds, "seen": run.describe()}, indent=2))
    return int(bool(faults))


def watch(folder: Path, *, scans: int, workers: int) -> LongRun:
    """Segment ``scans`` small scans below ``folder`` and look at the command after each."""
    write_scans(folder / "scans", scans)
    run, output, temporary = made.write_run(folder / "run", WORKLOAD), folder / "out", folder / "t"
    temporary.mkdir()
    command = made.infer_command(folder / "scans", output, run, WORKLOAD)
    started = time.monotonic()
    with subprocess.Popen(
        [*command, "--workers", str(workers)],
        env={**made.environment(WORKLOAD.threads), "TMPDIR": str(temporary)},
    ) as process:
        samples: list[Sample] = []
        seen: set[int] = set()
        while process.poll() is None:
            time.sleep(_INTERVAL_S)
            finished = _finished(output)
            if finished > (samples[-1].finished if samples else 0):
                samples.append(_look(process.pid, finished, temporary))
                seen.update(process_tree(process.pid))
    seconds = time.monotonic() - started
    unfinished = [*output.rglob(f"{TEMPORARY_PREFIX}*"), *temporary.rglob("*")]
    return LongRun(
        scans=scans,
        workers=workers,
        finished=_finished(output),
        samples=tuple(samples),
        seconds=round(seconds, 1),
        status=process.returncode,
        left_processes=_still_there(seen),
        left_files=len(unfinished),
    )


def write_scans(folder: Path, count: int) -> None:
    """Write a few scans, and links to them under as many names as asked for."""
    folder.mkdir()
    written = [
        made.write_scan(folder.parent / f"scan_{slices}.nii.gz", slices, WORKLOAD.pixels)
        for slices in _SLICES
    ]
    for number in range(count):
        os.link(written[number % len(written)], folder / f"case_{number:05}.nii.gz")


def _finished(output: Path) -> int:
    """Return the number of scans with a report."""
    return len(list(output.glob("case_*.json"))) if output.is_dir() else 0


def _look(pid: int, finished: int, temporary: Path) -> Sample:
    tree = process_tree(pid)
    return Sample(
        finished=finished,
        resident_bytes=sum(map(resident_bytes, tree)),
        open_files=sum(map(open_files, tree)),
        processes=len(tree),
        temporary=len(list(temporary.iterdir())),
    )


def _still_there(pids: set[int], *, patience_s: float = 5.0) -> int:
    """Return how many processes have not ended; helpers of multiprocessing may take a moment."""
    deadline = time.monotonic() + patience_s
    while (left := sum(resident_bytes(pid) > 0 for pid in pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


if __name__ == "__main__":
    sys.exit(main())
