"""Means with the number of cases and a bootstrap interval; NaN is left out and not counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
"""Bootstrap resamples."""

CONFIDENCE = 0.95
"""Share of the resampled means inside the interval."""

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


def bootstrap_mean(values: Iterable[float]) -> Mean:
    """Return the mean of the values that are not NaN; the interval of a single one is itself."""
    kept = np.array([v for v in values if not math.isnan(v)], dtype=np.float64)
    if len(kept) == 0:
        return Mean(math.nan, math.nan, math.nan, 0)
    generator = np.random.default_rng(SEED)
    draws = generator.integers(0, len(kept), size=(RESAMPLES, len(kept)))
    tail = 50 * (1 - CONFIDENCE)
    lower, upper = np.percentile(kept[draws].mean(axis=1), [tail, 100 - tail])
    return Mean(float(kept.mean()), float(lower), float(upper), len(kept))


def ratio(numerator: float, denominator: float) -> float:
    """Return a share, NaN of nothing."""
    return numerator / denominator if denominator else math.nan


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two shares; 0 when both are 0, NaN when one is NaN."""
    return 2 * first * second / (first + second) if first + second != 0 else 0.0


def none_if_nan(value: float) -> float | None:
    """Return the value, or None in place of NaN (which JSON does not have)."""
    return None if math.isnan(value) else value
