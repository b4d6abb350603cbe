"""The engine's benchmark: stacks are the same network, and the tables hold what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import engine
import pytest
import torch
import workload as made
from workload import Workload

SCAN = {
    "slices": 1000,
    "wall_s": 700.0,
    "predict_s": 600.0,
    "peak_mib": 2500.0,
    "over_model_mib": 1500.0,
    "over_arrays_mib": 750.0,
}
FIGURES = {
    "command": "c",
    "machine": "m",
    "workload": "w",
    "stacks": {"engine": 0.5, "stacks": 1.25, "single_stacks": 2.0},
    "scaling": {
        "loaded_mib": 1000.0,
        "loading_mib": 1200.0,
        "scans": [{**SCAN, "slices": 25, "predict_s": 12.5}, SCAN],
    },
    "classes": {"1": {"present": 0.5, "absent": 0.4}, "15": {"present": 0.7, "absent": 0.4}},
}


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_stacks_give_what_a_chunk_gives(tiny: Workload, batch: int) -> None:
    network, chunk = made.build(tiny, ["a", "b"]), torch.rand(1, 5 + 4, 32, 32)
    whole, apart = network(chunk), engine.StackByStack(network, batch)(chunk)
    torch.testing.assert_close(apart.mask_logits, whole.mask_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(apart.presence_logits, whole.presence_logits, rtol=1e-4, atol=1e-4)


def test_every_measurement_goes_into_table_and_json(tmp_path: Path, tiny_words: list[str]) -> None:
    words = ["--slices", "3", "--classes", "2", "--in-memory", "3", "--runs", "1"]
    assert engine.main([*tiny_words, *words]) == 0
    figures = json.loads((tmp_path / "engine.json").read_text())
    assert all(seconds > 0 for seconds in figures["stacks"].values())
    assert set(figures["classes"]) == {"2"}
    (scan,) = figures["scaling"]["scans"]
    assert scan["peak_mib"] > scan["over_model_mib"] >= scan["over_arrays_mib"]
    page = (tmp_path / "results.md").read_text()
    assert "| engine, chunks |" in page
    assert str(tmp_path) not in page


def test_targets_are_compared_with_what_was_found() -> None:
    markdown = engine.to_markdown(FIGURES)
    assert "| gain over stacks | at least 2.0 | 2.5 | yes |" in markdown
    assert "| 15 classes against 1 | at most 1.3 | 1.4 | no |" in markdown
    assert "| 1000 slices, MiB over the loaded model | at most 1638 | 1500 | yes |" in markdown


def test_scaling_is_relative_to_the_first_row() -> None:
    markdown = engine.to_markdown(FIGURES)
    assert "| 1000 | 700.0 | 600.0 | 0.6000 | 1.20 | 2500 | 1500 | 750 |" in markdown
