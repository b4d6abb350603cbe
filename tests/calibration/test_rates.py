"""Exact intervals, and how many scans a promise takes."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from samcancer.calibration.rates import Rate, allowed_scans, scans_to_allow_one, scans_to_show


def test_none_of_n_may_still_be_a_share_whose_nth_power_of_the_rest_is_a_fortieth() -> None:
    lower, upper = Rate(0, 20).interval
    assert lower == 0
    assert (1 - upper) ** 20 == pytest.approx(0.025)


def test_all_of_n_is_the_mirror_of_none() -> None:
    assert Rate(7, 7).interval == pytest.approx((1 - Rate(0, 7).interval[1], 1))


@pytest.mark.parametrize(("count", "n"), [(1, 20), (3, 12), (11, 12)])
def test_the_ends_leave_a_fortieth_on_either_side(count: int, n: int) -> None:
    lower, upper = Rate(count, n).interval
    assert stats.binom.sf(count - 1, n, lower) == pytest.approx(0.025)
    assert stats.binom.cdf(count, n, upper) == pytest.approx(0.025)


def test_of_no_scan_nothing_is_known() -> None:
    rate = Rate(0, 0)
    assert math.isnan(rate.share)
    assert rate.interval == (0, 1)
    assert rate.to_dict()["share"] is None
    assert rate.describe() == "none"


def test_a_rate_is_told_with_its_interval() -> None:
    assert Rate(1, 20).describe() == "1 of 20 (5% [0%, 25%])"


@pytest.mark.parametrize(
    ("share", "n", "allowed"),
    [(0.05, 19, 0), (0.05, 20, 1), (0.05, 59, 2), (0.1, 30, 3), (0, 9, 0)],
)
def test_a_share_of_n_scans_is_rounded_down(share: float, n: int, allowed: int) -> None:
    assert allowed_scans(share, n) == allowed


def test_the_scans_that_a_share_needs() -> None:
    assert scans_to_allow_one(0.05) == 20
    assert scans_to_allow_one(0.3) == 4
    needed = scans_to_show(0.05)
    assert Rate(0, int(needed)).interval[1] <= 0.05 < Rate(0, int(needed) - 1).interval[1]
    assert scans_to_allow_one(0) == scans_to_show(0) == math.inf
