"""Many scans through one command: nothing piles up."""

from __future__ import annotations

from pathlib import Path

import pytest
from long_run import watch
from reliability_figures import Tally


@pytest.mark.figure("long-run", "{workers} process(es)")
@pytest.mark.parametrize("workers", [1, 2])
def test_many_scans_leave_memory_files_and_processes_as_they_were(
    workers: int, tally: Tally, tmp_path: Path
) -> None:
    run = watch(tmp_path, scans=tally.wanted, workers=workers)
    tally.found = run.finished
    tally.measured = run.describe()
    assert run.faults() == []
