from __future__ import annotations

import pytest

from samcancer.training.schedule import learning_rate_factor, progress_of


def factor(progress: float, *, warmup: float = 0.1, power: float = 0.9) -> float:
    return learning_rate_factor(progress, warmup_fraction=warmup, decay_power=power)


def test_the_rate_rises_linearly_in_the_warm_up_and_decays_to_zero() -> None:
    assert factor(0.05) == pytest.approx(0.5 * 0.95**0.9)
    assert factor(0.1) == pytest.approx(0.9**0.9)
    assert factor(0.5) == pytest.approx(0.5**0.9)
    assert factor(1.0) == 0


def test_without_warm_up_the_first_step_has_almost_the_full_rate() -> None:
    assert factor(progress_of(0, 999), warmup=0) == pytest.approx(0.999**0.9)


def test_progress_is_never_0_at_the_first_nor_1_at_the_last_step() -> None:
    assert progress_of(0, 4) == pytest.approx(1 / 5)
    assert progress_of(3, 4) == pytest.approx(4 / 5)


def test_progress_follows_the_time_when_that_is_further() -> None:
    assert progress_of(0, 100, elapsed_s=30, time_budget_s=60) == 0.5
    assert progress_of(79, 99, elapsed_s=30, time_budget_s=60) == 0.8
    assert progress_of(0, 100, elapsed_s=90, time_budget_s=60) == 1
