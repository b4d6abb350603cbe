"""What thresholds are worth: healthy scans marked, lesions found by size, Dice.

Three columns stand side by side. *Before*: the thresholds that the model had. *After*: those
fitted, judged on the scans that they were fitted to, which flatters them. *Cross-validated*: the
fit repeated without the scans of each fold in turn and judged on these, which is what to expect of
new scans of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samcancer.calibration.grid import Grid, Index
from samcancer.calibration.outcomes import HealthyOutcome, LesionOutcome, Outcome
from samcancer.calibration.rates import Rate
from samcancer.calibration.search import choose, healthy_scans
from samcancer.evaluation.lesions import SIZE_BANDS_ML, band_name
from samcancer.evaluation.statistics import Mean, bootstrap_mean, none_if_nan

ALL_SIZES = "all"
"""Name of the band of every lesion."""


@dataclass(frozen=True)
class ClassFigures:
    """Of one class."""

    healthy: Rate
    """Scans that are known to be free of the class, with a false lesion of it."""
    found: dict[str, Rate]
    """Size band, or ``all`` -> lesions found."""
    dice: Mean
    """Volume Dice over the scans that hold the class."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        found = {
            band: {"detected": r.count, "lesions": r.n, "recall": none_if_nan(r.share)}
            for band, r in self.found.items()
        }
        return {"healthy": self.healthy.to_dict(), "found": found, "dice": self.dice.to_dict()}


@dataclass(frozen=True)
class Figures:
    """Of all lesion classes."""

    healthy: Rate
    """Scans known to hold no lesion of any class, with a false lesion of any."""
    classes: dict[str, ClassFigures]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        classes = {name: figures.to_dict() for name, figures in self.classes.items()}
        return {"healthy": self.healthy.to_dict(), "classes": classes}


def figures_of(outcomes: Sequence[Outcome], indices: Mapping[str, Index]) -> Figures:
    """Judge thresholds on scans.

    Args:
        outcomes: Of the scans.
        indices: Class -> candidate.
    """
    return _figures(outcomes, tuple(indices), lambda outcome: indices[outcome.class_name])


def cross_validated(
    outcomes: Sequence[Outcome],
    grid: Grid,
    *,
    own: Mapping[str, Index],
    max_fp_scans: float,
) -> Figures:
    """Judge the fitting itself: on the scans of each fold, thresholds fitted to the other folds.

    Args:
        outcomes: Of all scans.
        grid: The candidates.
        own: Class -> the thresholds that the model has.
        max_fp_scans: Share of healthy scans that may be marked.
    """
    fitted = {
        fold: choose(
            [o for o in outcomes if o.fold != fold], grid, own=own, max_fp_scans=max_fp_scans
        ).indices
        for fold in sorted({o.fold for o in outcomes})
    }
    return _figures(outcomes, tuple(own), lambda o: fitted[o.fold][o.class_name])


def _figures(
    outcomes: Sequence[Outcome], class_names: Sequence[str], of: Callable[[Outcome], Index]
) -> Figures:
    marked = {
        outcome.scan
        for outcome in outcomes
        if isinstance(outcome, HealthyOutcome) and outcome.false[of(outcome)]
    }
    healthy = healthy_scans(outcomes, class_names)
    return Figures(
        Rate(len(marked.intersection(healthy)), len(healthy)),
        {
            name: _of_class([o for o in outcomes if o.class_name == name], of)
            for name in class_names
        },
    )


def _of_class(outcomes: Sequence[Outcome], of: Callable[[Outcome], Index]) -> ClassFigures:
    free = [bool(o.false[of(o)]) for o in outcomes if isinstance(o, HealthyOutcome)]
    held = [o for o in outcomes if isinstance(o, LesionOutcome)]
    found = {
        band_name(band): Rate(
            sum(int(o.detected[(i, *of(o))]) for o in held), sum(int(o.lesions[i]) for o in held)
        )
        for i, band in enumerate(SIZE_BANDS_ML)
    }
    every = Rate(sum(r.count for r in found.values()), sum(r.n for r in found.values()))
    return ClassFigures(
        Rate(sum(free), len(free)),
        {**found, ALL_SIZES: every},
        bootstrap_mean(float(o.dice[of(o)]) for o in held),
    )
