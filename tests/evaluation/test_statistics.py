from __future__ import annotations

import math

import numpy as np
import pytest

from samcancer.evaluation.statistics import (
    bootstrap_harmonic_mean,
    bootstrap_mean,
    harmonic_mean,
    paired_difference,
    ratio,
)


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


def test_the_mean_of_patients_scans_is_over_scans_and_its_interval_over_patients() -> None:
    # Two patients, the second with three scans: resamples are all a, all b, or a and b.
    result = bootstrap_mean([1.0, 0.0, 0.0, 0.0], groups=["a", "b", "b", "b"])
    assert (result.mean, result.lower, result.upper, result.n) == (0.25, 0.0, 1.0, 4)


def test_a_patient_of_one_scan_each_gives_the_interval_of_cases() -> None:
    values = np.random.default_rng(2).normal(size=30)
    grouped = bootstrap_mean(values, groups=[f"{i:02d}" for i in range(30)])
    assert grouped.lower == pytest.approx(bootstrap_mean(values).lower, abs=1e-12)
    assert grouped.upper == pytest.approx(bootstrap_mean(values).upper, abs=1e-12)


def test_a_patients_scans_make_the_interval_wider_than_as_many_patients() -> None:
    values = np.repeat(np.random.default_rng(3).normal(size=20), 5)
    patients = [str(i // 5) for i in range(100)]
    apart, together = bootstrap_mean(values), bootstrap_mean(values, groups=patients)
    ratio_of_widths = (together.upper - together.lower) / (apart.upper - apart.lower)
    assert ratio_of_widths == pytest.approx(math.sqrt(5), rel=0.1)


def test_nan_leaves_its_patient_only_where_all_its_scans_are() -> None:
    result = bootstrap_mean([0.5, math.nan, math.nan], groups=["a", "a", "b"])
    assert (result.mean, result.lower, result.upper, result.n) == (0.5, 0.5, 0.5, 1)


def test_a_paired_difference_counts_pairs_by_who_is_better() -> None:
    first, second = [0.9, 0.5, 0.4, 0.8, math.nan], [0.7, 0.5, 0.6, 0.5, 0.1]
    found = paired_difference(first, second)
    assert (found.better, found.equal, found.worse) == (2, 1, 1)
    assert found.difference.n == 4
    assert found.difference.mean == pytest.approx((0.2 + 0.0 - 0.2 + 0.3) / 4)
    assert found.first - found.second == pytest.approx(found.difference.mean)
    swapped = paired_difference(first, second, lower_is_better=True)
    assert (swapped.better, swapped.equal, swapped.worse) == (1, 1, 2)


def test_the_p_value_of_few_pairs_is_counted_over_all_signs() -> None:
    # Six differences of one sign: of the 2^6 signs, two are as extreme.
    found = paired_difference([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.0] * 6)
    assert found.p_value == pytest.approx(2 / 2**6)


def test_the_p_value_of_many_pairs_is_that_of_the_normal_law() -> None:
    # Ranks 1 to n; the sum of positive ranks has mean n(n+1)/4 and variance n(n+1)(2n+1)/24.
    n, rng = 200, np.random.default_rng(8)
    differences = rng.permutation(np.arange(1, n + 1)) * np.where(rng.random(n) < 0.55, 1, -1)
    positive = differences[differences > 0].sum()
    z = (positive - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    p_value = math.erfc(abs(z) / math.sqrt(2))
    assert paired_difference(differences, np.zeros(n)).p_value == pytest.approx(p_value, rel=0.02)


def test_equal_pairs_do_not_change_the_p_value() -> None:
    first = [0.1, 0.2, 0.3, 0.4, 0.5]
    alone = paired_difference(first, [0.0] * 5)
    with_equal = paired_difference([*first, 0.7, 0.7], [*[0.0] * 5, 0.7, 0.7])
    assert with_equal.p_value == alone.p_value


def test_pairs_that_are_all_equal_have_no_p_value() -> None:
    found = paired_difference([0.5, 0.6], [0.5, 0.6])
    assert found.equal == 2
    assert found.to_dict()["p_value"] is None


def test_no_pair_at_all_has_no_figures() -> None:
    content = paired_difference([math.nan], [0.5]).to_dict()
    assert content["n"] == 0
    assert {content[key] for key in ("mean", "first", "second", "p_value")} == {None}


def test_a_patients_pairs_are_averaged_and_count_as_one() -> None:
    found = paired_difference([0.9, 0.5, 0.7], [0.5, 0.7, 0.6], groups=["a", "a", "b"])
    assert (found.difference.n, found.better, found.worse) == (2, 2, 0)
    assert found.difference.mean == pytest.approx(((0.4 - 0.2) / 2 + 0.1) / 2)


def test_systems_of_different_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([0.1, 0.2], [0.1])


def test_the_harmonic_means_interval_is_resampled_by_kind() -> None:
    assert bootstrap_harmonic_mean([True] * 4, [True] * 9) == (1.0, 1.0)
    assert bootstrap_harmonic_mean([False] * 4, [True] * 9) == (0.0, 0.0)
    lower, upper = bootstrap_harmonic_mean([True, False] * 50, [True] * 100)
    # the specificity stays 1, so the ends are those of a share of 100 around a half
    for end, share in ((lower, 0.5 - 1.96 * 0.05), (upper, 0.5 + 1.96 * 0.05)):
        assert end == pytest.approx(2 * share / (share + 1), abs=0.015)


def test_the_harmonic_mean_of_one_kind_alone_has_no_interval() -> None:
    assert all(math.isnan(end) for end in bootstrap_harmonic_mean([True], []))
