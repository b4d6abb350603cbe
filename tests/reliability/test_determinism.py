"""The same seed gives the same bytes; order, chunks and batches change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inference_fakes import bright_box
from real_store import make_store
from reliability_figures import Tally
from small_run import CLASSES, save_run
from stages import segmentation, training
from volume_fakes import save_by_itk

from samcancer.commands import EXIT_OK, run_verb
from samcancer.modeling.predict import predict_slices
from samcancer.modeling.predict_options import PredictOptions
from samcancer.training.checkpoint import load_checkpoint

BATCH_TOLERANCE = 1e-5
"""Most that a probability may change with the number of slices in a chunk."""


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
    # of the case a mask, a table, a report and a mask of each class
    assert sum("case_2" in name for name in alone) == 3 + len(CLASSES)


@pytest.mark.figure("determinism", "length of chunks")
def test_the_length_of_a_chunk_changes_no_probability(measurement: Tally, tmp_path: Path) -> None:
    model = load_checkpoint(save_run(tmp_path / "run")).model
    slices_hu = np.random.default_rng(3).integers(-200, 300, (13, 32, 32)).astype(np.int16)
    found = []
    for batch in (1, 2, 4, 9):
        options = PredictOptions(batch=batch)
        chunks = predict_slices(model, slices_hu, window_hu=(-160.0, 240.0), options=options)
        found.append(torch.cat([torch.sigmoid(chunk.logits) for chunk in chunks]))
    assert found[0].shape == (9, len(CLASSES), 32, 32)
    assert float(found[0].max() - found[0].min()) > 1e3 * BATCH_TOLERANCE
    largest = max(float((found[0] - other).abs().max()) for other in found[1:])
    measurement.measured = f"largest difference of a probability {largest:.1e}"
    assert largest <= BATCH_TOLERANCE
