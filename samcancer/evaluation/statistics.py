"""Means, paired differences and shares with bootstrap intervals; NaN is left out, not counted.

Where several values come from one patient they are not independent: patients are resampled then,
each with all of its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap resamples."""

CONFIDENCE = 0.95
"""Share of the resampled means inside the interval."""

_DIFFERENCE_DECIMALS = 12
"""Decimals of paired differences, so that 0.3 - 0.1 and 0.6 - 0.4 share a rank."""

SEED = 20240
"""Seed of the resampling, fixed so that a table can be made again."""


@dataclass(frozen=True)
class Mean:
    """A mean over cases with its 95 % percentile bootstrap interval; NaN when n is 0."""

    mean: float
    lower: float
    upper: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, NaN as None."""
        return {
            "mean": none_if_nan(self.mean),
            "lower": none_if_nan(self.lower),
            "upper": none_if_nan(self.upper),
            "n": self.n,
        }


@dataclass(frozen=True)
class PairedDifference:
    """First less second, over the pairs in which both are defined."""

    first: float
    """Mean of the first over the pairs; NaN when there is none."""
    second: float
    difference: Mean
    better: int
    """Pairs in which the first is the better one."""
    equal: int
    worse: int
    p_value: float
    """Of Wilcoxon's signed-rank test, two-sided, equal pairs left out; NaN when all are equal."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, NaN as None; the difference's mean, interval and n on top."""
        return {
            **self.difference.to_dict(),
            "first": none_if_nan(self.first),
            "second": none_if_nan(self.second),
            "better": self.better,
            "equal": self.equal,
            "worse": self.worse,
            "p_value": none_if_nan(self.p_value),
        }


def bootstrap_mean(values: Iterable[float], *, groups: Sequence[str] | None = None) -> Mean:
    """Return the mean of the values that are not NaN; the interval of a single one is itself.

    Args:
        values: One for each case.
        groups: Patient of each value; None when every value is a patient's only one.
    """
    every = np.array(list(values), dtype=np.float64)
    valid = ~np.isnan(every)
    kept = every[valid]
    if len(kept) == 0:
        return Mean(math.nan, math.nan, math.nan, 0)
    if groups is None:
        means = kept[_draws(len(kept))].mean(axis=1)
    else:
        number = np.unique(np.array(groups)[valid], return_inverse=True)[1]
        sums, sizes = np.bincount(number, weights=kept), np.bincount(number)
        draws = _draws(len(sizes))
        means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    return Mean(float(kept.mean()), *interval_of(means), len(kept))


def paired_difference(
    first: Iterable[float],
    second: Iterable[float],
    *,
    groups: Sequence[str] | None = None,
    lower_is_better: bool = False,
) -> PairedDifference:
    """Compare two systems on the same cases.

    Args:
        first: One value for each case.
        second: The same cases in the same order.
        groups: Patient of each case: a patient's pairs are averaged and count as one. None when
            every case is a patient.
        lower_is_better: Which of the two is called better.

    Raises:
        ValueError: When the numbers of values differ.
    """
    pairs = np.array(list(zip(first, second, strict=True)), dtype=np.float64).reshape(-1, 2)
    valid = ~np.isnan(pairs).any(axis=1)
    pairs = pairs[valid]
    if groups is not None:
        number = np.unique(np.array(groups)[valid], return_inverse=True)[1]
        sums = [np.bincount(number, weights=column) for column in pairs.T]
        pairs = np.stack(sums, axis=1) / np.bincount(number)[:, None]
    differences = np.round(pairs[:, 0] - pairs[:, 1], _DIFFERENCE_DECIMALS)
    higher, lower = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedDifference(
        first=float(pairs[:, 0].mean()) if len(pairs) else math.nan,
        second=float(pairs[:, 1].mean()) if len(pairs) else math.nan,
        difference=bootstrap_mean(differences),
        better=lower if lower_is_better else higher,
        equal=len(pairs) - higher - lower,
        worse=higher if lower_is_better else lower,
        p_value=_signed_rank_p_value(differences[differences != 0]),
    )


def bootstrap_harmonic_mean(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """Return the interval of the harmonic mean of two shares; NaN when one has no patient.

    Args:
        first: Whether each patient of one kind was judged rightly.
        second: The same of the other kind; the kinds are resampled apart.
    """
    if not len(first) or not len(second):
        return math.nan, math.nan
    generator = np.random.default_rng(SEED)
    shares = [
        np.array(right, dtype=np.float64)[_draws(len(right), generator)].mean(axis=1)
        for right in (first, second)
    ]
    total = shares[0] + shares[1]
    twice = 2 * shares[0] * shares[1]
    return interval_of(np.divide(twice, total, out=np.zeros_like(total), where=total > 0))


def interval_of(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval of resampled figures."""
    tail = 50 * (1 - CONFIDENCE)
    lower, upper = np.percentile(resampled, [tail, 100 - tail])
    return float(lower), float(upper)


def ratio(numerator: float, denominator: float) -> float:
    """Return a share, NaN of nothing."""
    return numerator / denominator if denominator else math.nan


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two shares; 0 when both are 0, NaN when one is NaN."""
    return 2 * first * second / (first + second) if first + second != 0 else 0.0


def none_if_nan(value: float) -> float | None:
    """Return the value, or None in place of NaN (which JSON does not have)."""
    return None if math.isnan(value) else value


def _draws(count: int, generator: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Return the indices of every resample, (RESAMPLES, count)."""
    generator = np.random.default_rng(SEED) if generator is None else generator
    return generator.integers(0, count, size=(RESAMPLES, count))


def _signed_rank_p_value(differences: NDArray[np.float64]) -> float:
    if len(differences) == 0:
        return math.nan
    from scipy.stats import wilcoxon  # imported here: it takes longer than most evaluations' help

    return float(wilcoxon(differences).pvalue)
