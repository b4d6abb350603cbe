"""A disk that fills up in any stage: one line, whole files only; with room, all the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inference_fakes import bright_box
from kill_storm import Command, files_below
from real_store import make_store
from reliability_figures import Tally
from small_disk import small_disk
from small_run import save_run
from stages import preparation, segmentation, training
from volume_fakes import save_by_itk

from samcancer.commands import run_verb
from samcancer.files import TEMPORARY_PREFIX

LEVELS = 20

PAGE_BYTES = 4096
"""A small disk gives away whole pages."""

HEADROOM = 1.5
"""The emptiest level leaves so much more room than the results need."""


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was logged and written to standard error since the last call."""

    def take() -> str:
        text = caplog.text + capfd.readouterr().err
        caplog.clear()
        return text

    return take


def used_bytes(folder: Path) -> int:
    pages = [-(-p.stat().st_size // PAGE_BYTES) for p in folder.rglob("*") if p.is_file()]
    return sum(pages) * PAGE_BYTES


class Stage:
    """A command on disks of any fill level, and what it leaves on an empty one."""

    def __init__(self, command: Command, folder: Path, told: Callable[[], str]) -> None:
        self._command, self._folder, self._told = command, folder, told
        assert self._run(folder / "whole") == 0
        self._whole = command.content(folder / "whole")
        self._bytes = used_bytes(folder / "whole")

    def fill(self, level: int, *, old: Callable[[Path], None] = lambda _: None) -> bool:
        """Run on a disk with ``level`` / 20 of the room; return whether it was too little."""
        room = int(self._bytes * HEADROOM * level / LEVELS)
        with small_disk(self._folder / f"level_{level}", size_bytes=2 * self._bytes + room) as disk:
            output = disk / "out"
            output.mkdir()
            old(output)
            before = files_below(output)
            free = shutil.disk_usage(disk).free
            (disk / "ballast").write_bytes(bytes(max(0, free - room)))
            status = self._run(output)
            self._check(status, output, before)
            (disk / "ballast").unlink()
            assert self._run(output) == 0
            assert self._command.content(output) == self._whole
        return status != 0

    def _check(self, status: int, output: Path, before: dict[str, bytes]) -> None:
        told = self._told()
        assert "Traceback" not in told
        assert [p.name for p in output.rglob(f"{TEMPORARY_PREFIX}*")] == []
        after = files_below(output)
        if status == 0:
            assert self._command.content(output) == self._whole
            return
        assert status in (1, 2)
        assert "the disk is full" in told or "the disk has" in told
        for name, data in before.items():
            assert after[name] in (data, self._whole[name]), name

    def _run(self, output: Path) -> int:
        return run_verb(self._command.verb, [*self._command.words(output, 0), "--quiet"])


def fill_levels(stage: Stage, tally: Tally, **options: Any) -> None:
    """Fill the disk to levels spread over all of them; the first is full, the last has room."""
    refused = []
    for trial in tally.trials():
        level = trial * LEVELS // (tally.wanted - 1)
        refused.append(stage.fill(level, **options))
    assert refused[0]
    assert not refused[-1]
    tally.measured = f"{sum(refused)} of {tally.wanted} levels had too little room"


@pytest.mark.figure("disk", "prepare-slices")
def test_a_full_disk_while_preparing(tally: Tally, tmp_path: Path, told: Callable[[], str]) -> None:
    stage = Stage(preparation(tmp_path, cases=3), tmp_path, told)
    fill_levels(stage, tally)


@pytest.mark.figure("disk", "train-fold")
def test_a_full_disk_while_training(tally: Tally, tmp_path: Path, told: Callable[[], str]) -> None:
    store = make_store(tmp_path / "store").folder
    fill_levels(Stage(training(store, epochs=1), tmp_path, told), tally)


@pytest.mark.figure("disk", "infer-volume")
def test_a_full_disk_while_segmenting(
    tally: Tally, tmp_path: Path, told: Callable[[], str]
) -> None:
    """The mask of another run lies there already, and stays until its new one is whole."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(3):
        save_by_itk(scans / f"case_{number}.nii", bright_box(20 + number))
    command = segmentation(scans, save_run(tmp_path / "run"))

    def old(output: Path) -> None:
        (output / "case_1.nii").write_bytes(b"an old mask")

    fill_levels(Stage(command, tmp_path, told), tally, old=old)
