"""Two commands on one output folder at the same time: one works, the other says who does."""

from __future__ import annotations

from pathlib import Path

import pytest
from inference_fakes import bright_box
from kill_storm import PATIENCE_S, Command, finish, start
from real_store import make_store
from reliability_figures import Tally
from small_run import save_run
from stages import preparation, segmentation, training
from volume_fakes import save_by_itk

from samcancer.commands import EXIT_BAD_INPUT, EXIT_OK


def race(command: Command, folder: Path, tally: Tally) -> None:
    """Start two at once, over and over; on a busy machine the second may come after the first."""
    finish(command, folder / "whole", trial=0)
    whole = command.content(folder / "whole")
    apart = 0
    for trial in tally.trials():
        output = folder / f"raced_{trial}"
        racers = [start(command, output, trial=0) for _ in range(2)]
        for racer in racers:
            racer.join(PATIENCE_S)
        statuses = sorted(str(racer.exitcode) for racer in racers)
        assert str(EXIT_OK) in statuses
        assert set(statuses) <= {str(EXIT_OK), str(EXIT_BAD_INPUT)}
        apart += statuses == [str(EXIT_OK)] * 2
        assert command.content(output) == whole
    tally.measured = f"{tally.wanted - apart} refused, {apart} came after the other had ended"


@pytest.mark.figure("race", "prepare-slices")
def test_two_preparations_of_one_store(tally: Tally, tmp_path: Path) -> None:
    race(preparation(tmp_path, cases=3), tmp_path, tally)


@pytest.mark.figure("race", "train-fold")
def test_two_trainings_of_one_fold(tally: Tally, tmp_path: Path) -> None:
    race(training(make_store(tmp_path / "store").folder, epochs=2), tmp_path, tally)


@pytest.mark.figure("race", "infer-volume")
def test_two_segmentations_into_one_folder(tally: Tally, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(3):
        save_by_itk(scans / f"case_{number}.nii.gz", bright_box(8 + number))
    race(segmentation(scans, save_run(tmp_path / "run")), tmp_path, tally)
