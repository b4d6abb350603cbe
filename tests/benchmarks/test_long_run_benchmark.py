"""What counts as piling up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from long_run import GROWTH_LIMIT, LongRun, Sample

SCANS = 200
MEMORY = 300 * 2**20


def seen(**changes: float) -> LongRun:
    """A run in which nothing piles up, or what is named does, per scan."""
    samples = tuple(
        Sample(
            finished=n,
            resident_bytes=int(MEMORY * (1 + changes.get("memory", 0.0) * n)),
            open_files=40 + n % 3 + int(changes.get("files", 0.0) * n),
            processes=3 + int(changes.get("processes", 0.0) * n),
            temporary=1 + int(changes.get("temporary", 0.0) * n),
        )
        for n in range(1, SCANS + 1)
    )
    return LongRun(
        scans=SCANS,
        workers=1,
        finished=SCANS,
        samples=samples,
        seconds=1.0,
        status=0,
        left_processes=0,
        left_files=0,
    )


def test_a_run_that_stays_as_it_was_has_no_faults() -> None:
    assert seen().faults() == []
    assert seen().growth == pytest.approx(0)


@pytest.mark.parametrize(
    ("what", "per_scan", "fault"),
    [
        ("memory", 2 * GROWTH_LIMIT / 100, "memory grows by 1."),
        ("files", 0.1, "open files: "),
        ("processes", 0.1, "processes: "),
        ("temporary", 0.1, "temporary: "),
    ],
)
def test_what_piles_up_is_told(what: str, per_scan: float, fault: str) -> None:
    (told,) = seen(**{what: per_scan}).faults()
    assert told.startswith(fault)


def test_memory_may_grow_while_caches_fill() -> None:
    run = seen()
    early = tuple(
        replace(s, resident_bytes=MEMORY // 2) if s.finished < SCANS // 10 else s
        for s in run.samples
    )
    assert replace(run, samples=early).faults() == []


def test_missing_scans_and_leftovers_are_told() -> None:
    broken = replace(seen(), status=1, finished=199, left_processes=2, left_files=1)
    assert broken.faults() == [
        "exit status 1, 199 of 200 scans",
        "2 processes and 1 files are left",
    ]


def test_a_short_run_says_nothing_about_growth() -> None:
    assert replace(seen(memory=1.0), scans=50).growth is None
