"""How sure a share of scans is: exact intervals and how many scans a promise needs.

Source: Clopper and Pearson 1934, *The use of confidence or fiducial limits*. Where none of n scans
is false, the upper end is near 3.7 / n (the "rule of three", 3 / n, is its one-sided form).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy import stats

from samcancer.evaluation.statistics import CONFIDENCE, none_if_nan, ratio

_ROUNDING = 1e-9
"""So that 0.05 of 20 scans is 1 scan, whatever the floats say."""


@dataclass(frozen=True)
class Rate:
    """So many of n."""

    count: int
    n: int

    @property
    def share(self) -> float:
        """The share; NaN of none."""
        return ratio(self.count, self.n)

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the exact two-sided 95 % interval; (0, 1) of none."""
        tail = (1 - CONFIDENCE) / 2
        k, n = self.count, self.n
        lower = float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0
        upper = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
        return lower, upper

    def describe(self) -> str:
        """Return such as ``1 of 20 (5 % [0 %, 25 %])``."""
        if not self.n:
            return "none"
        lower, upper = self.interval
        return f"{self.count} of {self.n} ({self.share:.0%} [{lower:.0%}, {upper:.0%}])"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        lower, upper = self.interval
        return {
            "count": self.count,
            "n": self.n,
            "share": none_if_nan(self.share),
            "lower": lower,
            "upper": upper,
        }


def allowed_scans(max_share: float, n: int) -> int:
    """Return how many of n scans may be false."""
    return math.floor(max_share * n + _ROUNDING)


def scans_to_allow_one(max_share: float) -> float:
    """Return the number of scans from which one may be false; infinite for a share of 0."""
    return math.ceil(1 / max_share - _ROUNDING) if max_share else math.inf


def scans_to_show(max_share: float) -> float:
    """Return the number of scans, none of them false, whose interval ends at the share or below."""
    if not max_share:
        return math.inf
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-max_share) - _ROUNDING)
