"""What is judged of thresholds, and that cross-validation judges each scan by the other folds."""

from __future__ import annotations

import numpy as np
import pytest

from samcancer.calibration.figures import cross_validated, figures_of
from samcancer.calibration.grid import Grid
from samcancer.calibration.outcomes import HealthyOutcome, LesionOutcome, Outcome

GRID = Grid(presence=(0.5,), probability=(0.5, 0.6), min_volume_ml=(0.0,))
LOOSE, STRICT = (0, 0, 0), (0, 1, 0)


def healthy(scan: str, name: str, fold: int, *false: int) -> HealthyOutcome:
    return HealthyOutcome(scan, name, fold, np.array(false, dtype=bool).reshape(GRID.shape))


def diseased(scan: str, name: str, fold: int, detected: tuple[int, int]) -> LesionOutcome:
    """Three lesions of 1 to 10 ml and one larger, which every candidate finds."""
    found = np.zeros((3, *GRID.shape), dtype=np.int64)
    found[1], found[2] = np.array(detected).reshape(GRID.shape), 1
    dice = np.array([0.6, 0.4]).reshape(GRID.shape)
    return LesionOutcome(scan, name, fold, np.array([0, 3, 1]), found, dice)


OUTCOMES: list[Outcome] = [
    healthy("clean", "a", 0, 0, 0),
    healthy("clean", "b", 0, 0, 0),
    healthy("marked", "a", 1, 1, 0),
    healthy("marked", "b", 1, 0, 0),
    healthy("partly_known", "a", 0, 1, 1),
    diseased("sick_0", "a", 0, (3, 1)),
    diseased("sick_1", "a", 1, (2, 1)),
]


def test_only_scans_known_free_of_every_class_are_healthy_as_a_whole() -> None:
    figures = figures_of(OUTCOMES, {"a": LOOSE, "b": LOOSE})
    assert (figures.healthy.count, figures.healthy.n) == (1, 2)
    assert (figures.classes["a"].healthy.count, figures.classes["a"].healthy.n) == (2, 3)
    assert (figures.classes["b"].healthy.count, figures.classes["b"].healthy.n) == (0, 2)


def test_lesions_are_counted_by_size_and_dice_over_the_scans_that_hold_the_class() -> None:
    figures = figures_of(OUTCOMES, {"a": STRICT, "b": LOOSE}).classes["a"]
    counts = {band: (rate.count, rate.n) for band, rate in figures.found.items()}
    assert counts == {"< 1 ml": (0, 0), "1-10 ml": (2, 6), ">= 10 ml": (2, 2), "all": (4, 8)}
    assert (figures.dice.mean, figures.dice.n) == (pytest.approx(0.4), 2)
    assert figures.to_dict()["found"]["< 1 ml"]["recall"] is None


def test_each_scan_is_judged_by_thresholds_fitted_without_its_fold() -> None:
    # Without fold 1 no marked scan is known and the loose candidate is free: it marks the scan of
    # fold 1. Without fold 0 the strict one is chosen, and it misses two lesions of fold 0.
    known = [o for o in OUTCOMES if o.scan != "partly_known"]
    figures = cross_validated(known, GRID, own={"a": LOOSE, "b": LOOSE}, max_fp_scans=0)
    assert (figures.healthy.count, figures.healthy.n) == (1, 2)
    found = figures.classes["a"].found["1-10 ml"]
    assert (found.count, found.n) == (1 + 2, 6)
