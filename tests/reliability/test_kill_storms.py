"""kill -9 at random times in every stage: run again, it ends in the bytes of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest
from inference_fakes import bright_box
from kill_storm import KillStorm, finish
from real_store import make_store
from reliability_figures import Tally
from small_run import save_run
from stages import preparation, pseudo_labelling, segmentation, training
from volume_fakes import save_by_itk


def weather(storm: KillStorm, tally: Tally) -> None:
    """Let the storm rage."""
    for trial in tally.trials():
        storm.trial(trial)


@pytest.mark.figure("kill", "prepare-slices")
def test_prepare_slices_killed_at_random_times(tally: Tally, tmp_path: Path) -> None:
    weather(KillStorm(preparation(tmp_path, cases=5), tmp_path), tally)


@pytest.mark.figure("kill", "train-fold")
def test_train_fold_killed_at_random_times(tally: Tally, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store").folder
    weather(KillStorm(training(store, epochs=4), tmp_path), tally)


@pytest.mark.figure("kill", "pseudo-label")
def test_pseudo_label_killed_at_random_times(tally: Tally, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", slices=12).folder
    for fold in (0, 1):
        finish(training(store, epochs=1, fold=fold), tmp_path / "trained", trial=0)
    weather(KillStorm(pseudo_labelling(store, tmp_path / "trained"), tmp_path), tally)


@pytest.mark.figure("kill", "infer-volume")
def test_infer_volume_killed_at_random_times(tally: Tally, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, suffix in enumerate((".nii.gz", ".mha", ".nii", ".nrrd", ".nii.gz")):
        save_by_itk(scans / f"case_{number}{suffix}", bright_box(8 + number))
    weather(KillStorm(segmentation(scans, save_run(tmp_path / "run")), tmp_path), tally)
