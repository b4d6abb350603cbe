"""The candidates are in order, and a model's own thresholds are among them."""

from __future__ import annotations

import numpy as np
import pytest

from samcancer.calibration.grid import (
    PRESENCE_CANDIDATES,
    PROBABILITY_CANDIDATES,
    VOLUME_CANDIDATES_ML,
    grid_with,
)
from samcancer.training.calibration_file import ClassThresholds

OWN = ClassThresholds(presence=0.412, probability=0.5, min_volume_ml=0.3)


def test_own_thresholds_join_the_candidates_in_order() -> None:
    grid = grid_with([OWN])
    assert grid.presence == tuple(sorted({*PRESENCE_CANDIDATES, 0.412}))
    assert grid.probability == PROBABILITY_CANDIDATES
    assert grid.min_volume_ml == tuple(sorted({*VOLUME_CANDIDATES_ML, 0.3}))
    assert grid.thresholds(grid.index_of(OWN)) == OWN


def test_probability_is_never_let_under_a_half() -> None:
    assert min(PROBABILITY_CANDIDATES) == 0.5
    assert grid_with([]).logits[0] == 0


def test_steps_are_counted_on_every_axis() -> None:
    grid = grid_with([])
    steps = grid.steps_from((2, 1, 3))
    assert steps.shape == grid.shape
    assert (steps[2, 1, 3], steps[0, 0, 0], steps[3, 1, 1]) == (0, 6, 3)


def test_foreign_thresholds_have_no_place() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        grid_with([]).index_of(OWN)


def test_logits_are_those_of_the_probabilities() -> None:
    probability = np.array(PROBABILITY_CANDIDATES)
    np.testing.assert_allclose(
        grid_with([]).logits, np.log(probability / (1 - probability)), rtol=1e-6
    )
