from __future__ import annotations

import math

import numpy as np
import pytest

from samcancer.evaluation.statistics import bootstrap_mean, harmonic_mean, ratio


def test_nan_is_left_out_and_not_counted() -> None:
    result = bootstrap_mean([0.5, math.nan, 0.7])
    assert (result.mean, result.n) == (pytest.approx(0.6), 2)


def test_nothing_has_no_mean() -> None:
    result = bootstrap_mean([math.nan])
    assert result.n == 0
    assert result.to_dict() == {"mean": None, "lower": None, "upper": None, "n": 0}


def test_equal_values_have_an_interval_of_no_width() -> None:
    result = bootstrap_mean([0.25] * 7)
    assert (result.lower, result.mean, result.upper) == (0.25, 0.25, 0.25)


def test_the_interval_is_that_of_the_normal_law_for_many_values() -> None:
    values = np.random.default_rng(5).normal(size=400)
    result = bootstrap_mean(values)
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert result.upper - result.mean == pytest.approx(half_width, rel=0.1)
    assert result.mean - result.lower == pytest.approx(half_width, rel=0.1)


def test_the_same_values_give_the_same_interval() -> None:
    assert bootstrap_mean([0.1, 0.9, 0.4]) == bootstrap_mean([0.1, 0.9, 0.4])


def test_shares_of_nothing_are_not_numbers() -> None:
    assert math.isnan(ratio(0, 0))
    assert ratio(1, 4) == 0.25


def test_harmonic_means() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert math.isnan(harmonic_mean(math.nan, 0.5))
