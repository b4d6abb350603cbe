"""The same seed gives the same bytes; order, chunks and batches change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
from inference_fakes import bright_box
from real_store import make_store
from reliability_figures import Tally
from small_run import CLASSES, save_run
from stages import segmentation, training
from volume_fakes import save_by_itk

from samcancer.commands import EXIT_OK, run_verb

BATCH_TOLERANCE = 1e-5
"""Most that a probability may change with the number of slices in a chunk."""

HALF_STEP = 2.0**-12
"""Half of the distance of half-precision numbers below 1, which probabilities are kept as."""


@pytest.mark.figure("determinism", "training twice")
def test_two_trainings_with_one_seed_write_the_same_bytes(tmp_path: Path) -> None:
    command = training(make_store(tmp_path / "store").folder, epochs=2)
    for name in ("first", "second"):
        words = [*command.words(tmp_path / name, 0), "--quiet"]
        assert run_verb(command.verb, words) == EXIT_OK
    assert command.content(tmp_path / "first") == command.content(tmp_path / "second")
    for name in ("best", "last"):
        assert f"fold_0/{name}.safetensors" in command.content(tmp_path / "first")


@pytest.mark.figure("determinism", "order of cases")
def test_the_order_of_cases_changes_no_byte(tmp_path: Path) -> None:
    run, scans = save_run(tmp_path / "run"), []
    for number in range(4):
        hu = bright_box(3 + 2 * number, level_hu=300 + 90 * number)
        scans.append(save_by_itk(tmp_path / f"case_{number}.nii.gz", hu))
    contents = []
    for name, order in (("forth", scans), ("back", scans[::-1]), ("alone", scans[2:3])):
        command = segmentation(tmp_path, run)
        words = ["--input", *map(str, order), "--output", str(tmp_path / name), "--quiet"]
        words += ["--model", str(run), "--per-class", "--device", "cpu"]
        assert run_verb("infer-volume", words) == EXIT_OK
        contents.append(command.content(tmp_path / name))
    forth, back, alone = contents
    assert forth == back
    assert alone == {name: forth[name] for name in alone}
    assert len(alone) == 3 + len(CLASSES)  # mask, table, report, and a mask of each class


@pytest.mark.figure("determinism", "length of chunks")
def test_the_length_of_a_chunk_changes_no_probability(measurement: Tally, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    scan = save_by_itk(tmp_path / "case.nii.gz", bright_box(9))
    found = {}
    for batch in ("1", "2", "4", "9"):
        words = ["--input", str(scan), "--output", str(tmp_path / batch), "--model", str(run)]
        words += ["--probabilities", "--batch", batch, "--device", "cpu", "--quiet"]
        assert run_verb("infer-volume", words) == EXIT_OK
        files = [tmp_path / batch / "probabilities" / "case" / f"{c}.nii.gz" for c in CLASSES]
        found[batch] = np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in files])
    assert np.ptp(found["1"]) > BATCH_TOLERANCE
    largest = max(float(np.abs(found["1"] - other).max()) for other in found.values())
    measurement.measured = f"largest difference {largest:.1e}"
    assert largest <= BATCH_TOLERANCE + HALF_STEP
