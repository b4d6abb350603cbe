"""The figures of docs/reliability.md: their counts, how trials are counted, and where results go.

A test says ``@pytest.mark.figure(NAME, PART)``; PART may quote a parameter: ``{kind}, cut``.
If it takes the fixture ``tally`` it runs twice: a sample by default, and in full under the marker
``reliability``. A test without it counts as one trial. With ``--record-figures
FILE`` each leaves a JSON line.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figure:
    """What is promised, and how often it is tried."""

    number: int
    """Of the row in docs/reliability.md."""
    wanted: str
    full: int = 1
    """Trials of each part under ``make reliability``."""
    sample: int = 1
    """Trials of each part in the default run."""


FIGURES = {
    "geometry": Figure(1, "2000 grids turned and written: no voxel changes or moves", 2000, 200),
    "landmarks": Figure(2, "48 orientations read as nibabel reads them"),
    "kill": Figure(3, "kill -9 at 20 random times in each command: the same bytes", 20, 1),
    "resume": Figure(4, "3 + 3 epochs equal 6 bit for bit"),
    "corruption": Figure(5, "500 damaged files of each kind: one line or whole data", 500, 40),
    "artefacts": Figure(6, "200 flipped bits in each of our own files: all detected", 200, 40),
    "disk": Figure(7, "20 fill levels of a disk in each stage: old file or new, no rest", 20, 3),
    "race": Figure(8, "20 races of two writers: one wins, nothing is lost", 20, 1),
    "memory": Figure(9, "512 x 512 x 1000 in 1.6 GiB over the model, linear to 2000"),
    "shapes": Figure(10, "1 to 7 slices by 16 to 2048 pixels: 42 of 42"),
    "dicom": Figure(11, "20 and more DICOM series, mostly faulty: refused or right"),
    "catalogue": Figure(12, "every fault of the catalogue: one line, file, mend and status"),
    "leakage": Figure(13, "1000 random tables of patients and scans: none shared", 1000, 100),
    "hostile": Figure(14, "10 hostile checkpoints: nothing executes"),
    "names": Figure(15, "patient data in 30 tags and in paths: in no output and no log"),
    "halving": Figure(16, "full GPU memory and NaN: the same masks, the last good checkpoint"),
    "long-run": Figure(17, "500 scans in one process: memory, files, workers stay", 500, 60),
    "determinism": Figure(18, "the same seed gives the same bytes; batch and order change nothing"),
}
"""Name -> figure; ``make reliability-NAME`` runs one."""


class Tally:
    """Counts the trials of one part of a figure."""

    def __init__(self, count: int) -> None:
        """Start at none of ``count``."""
        self.wanted = count
        self.found = 0
        self.measured = ""
        """What was measured besides, with its unit and limit."""

    def trials(self) -> Iterator[int]:
        """Yield 0, 1, ...; a trial counts when its turn ends without an error."""
        for trial in range(self.wanted):
            yield trial
            self.found += 1


@dataclass(frozen=True, kw_only=True)
class Line:
    """The result of one test."""

    figure: str
    part: str
    test: str
    outcome: str
    wanted: int
    found: int
    measured: str
    seconds: float
    commit: str
    machine: str


def append_line(
    path: Path, *, figure: str, part: str, test: str, outcome: str, tally: Tally, seconds: float
) -> None:
    """Add a result to a file of JSON lines; several processes may do so at once."""
    line = Line(
        figure=figure,
        part=part,
        test=test,
        outcome=outcome,
        wanted=tally.wanted,
        found=tally.found,
        measured=tally.measured,
        seconds=round(seconds, 2),
        commit=commit(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
    )
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")


@cache
def commit() -> str:
    """Return the short hash of the commit at hand, with + after local changes; empty without."""
    words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
