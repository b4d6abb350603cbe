"""The benchmark of scoring: its label maps, its plain computation, and a small run of it all."""

from __future__ import annotations

import json
from pathlib import Path

import evaluation_speed
import numpy as np
import pytest

from samcancer.evaluation.labels import flare23_labels
from samcancer.evaluation.lesions import count_components

SHAPE = (40, 300, 400)


def test_a_prediction_holds_every_class_misses_a_lesion_and_invents_one() -> None:
    reference, prediction = evaluation_speed.draw_pair(SHAPE, np.random.default_rng(1))
    labels = flare23_labels()
    lesion = labels["lesion"][0]
    for values in (reference, prediction):
        # The esophagus lies above 40 slices.
        assert len(set(np.unique(values)) - {0}) >= len(labels) - 1
        assert count_components(values == lesion) == 3
    both = (reference == lesion) & (prediction == lesion)
    assert count_components(both) == 2


def test_drawing_repeats_from_its_seed() -> None:
    first, again = (
        evaluation_speed.draw_pair(SHAPE, np.random.default_rng([1, 5])) for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_plain_scores_are_those_of_a_shifted_box() -> None:
    reference, prediction = np.zeros((2, 8, 30, 30), dtype=np.uint8)
    for value in range(1, 15):
        reference[1:7, 2 * value : 2 * value + 2, 4:14] = value
        prediction[1:7, 2 * value : 2 * value + 2, 6:16] = value
    plain = evaluation_speed.plain_scores(reference, prediction)
    assert {dice for dice, _ in plain.values()} == {0.8}
    # Shifted by two columns, 1.56 mm: within every tolerance.
    assert {nsd for _, nsd in plain.values()} == {1.0}


@pytest.fixture
def words(results_page: Path) -> list[str]:
    small = ["--cases", "2", "--slices", "100", "--side", "400", "--plain-cases", "1"]
    return [*small, "--workers", "1", "--docs", str(results_page.parent)]


def test_a_small_run_is_published(words: list[str], results_page: Path) -> None:
    assert evaluation_speed.main(words) == 0
    figures = json.loads((results_page.parent / "evaluation_speed.json").read_text())
    assert (figures["cases"], figures["shape"]) == (2, [100, 400, 400])
    assert figures["summary"]["organs"] == 13
    assert 0.5 < figures["summary"]["organ_dice"] < 1.0
    page = results_page.read_text()
    assert "| flare23 |" in page
    assert "agree to 4 decimals" in page


def test_other_scores_than_the_plain_ones_stop_the_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        evaluation_speed, "plain_scores", lambda *_: dict.fromkeys(flare23_labels(), (0.5, 0.5))
    )
    assert evaluation_speed.main(words) == 2
    assert "plainly (0.5, 0.5)" in capsys.readouterr().err
