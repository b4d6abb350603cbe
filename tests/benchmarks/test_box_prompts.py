from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import box_prompts


def test_the_box_is_the_smallest_around_the_mask() -> None:
    mask = np.zeros((8, 9), dtype=bool)
    mask[2, 3] = mask[5, 7] = True
    assert box_prompts.bounding_box(mask) == (slice(2, 6), slice(3, 8))


@pytest.mark.parametrize("shape", [(200, 150), (100, 300)])
def test_the_box_reaches_the_network_in_its_pixels_and_the_mask_comes_back_in_the_slices(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_box(model: object, image: Tensor, box: Tensor) -> Tensor:
        assert image.shape == (1, 1, 256, 256)
        left, top, right, bottom = box.flatten().round().int().tolist()
        logits = -torch.ones_like(image)
        logits[..., top:bottom, left:right] = 1
        return logits

    monkeypatch.setattr(box_prompts, "box_logits", fill_the_box)
    wanted = np.zeros(shape, dtype=bool)
    wanted[40:90, 60:100] = True
    slice_hu = np.random.default_rng(0).integers(-200, 300, shape, dtype=np.int16)
    found = box_prompts.segment_slice(None, slice_hu, box_prompts.bounding_box(wanted))
    assert found.shape == shape
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.96


def test_the_table_holds_every_patient_and_the_mean() -> None:
    scores = {"a": box_prompts.Dice(0.9, 0.7), "b": box_prompts.Dice(0.7, 0.5)}
    markdown = box_prompts.to_markdown(scores)
    assert "| a | 0.900 | 0.700 |" in markdown
    assert "| mean | 0.800 [" in markdown


def test_without_weights_or_data_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMCANCER_CHECKPOINTS", str(tmp_path))
    assert box_prompts.main(["--data", str(tmp_path), "--no-docs"]) == 2
    assert "samcancer fetch-checkpoints medsam_lite" in capsys.readouterr().err
