"""Which candidate each class takes: the fewest lesions lost for the false scans that are allowed.

The budget is one for all lesion classes together: of the scans known to hold no lesion of any class
at most a share may be marked, whatever the class. It is spent scan by scan. To begin with, no scan
may be marked. A class that no candidate keeps clean takes the scans of its cheapest one. Then, as
long as the budget lasts, the candidate is paid for whose gain in recall, for each scan that it
marks and that was not given up before, is greatest; a scan given up for one class is free for the
others. Recall is lesion-wise and that of each class counts the same. Nothing is paid for Dice.

In the end each class takes, of the candidates that mark given-up scans only, the one of the highest
recall, then volume Dice, then the fewest false scans, then the fewest steps from the thresholds
that the model had. A second limit holds for each class by itself: of the scans that are known to be
free of this class (other lesions may be in them, or be unknown) at most the same share is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samcancer.calibration.grid import Grid, Index
from samcancer.calibration.outcomes import HealthyOutcome, LesionOutcome, Outcome
from samcancer.calibration.rates import allowed_scans


@dataclass(frozen=True)
class Choice:
    """What was taken."""

    indices: dict[str, Index]
    """Class -> candidate."""
    met: bool
    """Whether the budget is kept; else these are the candidates that come nearest to it."""


@dataclass(frozen=True)
class _Options:
    """The candidates of one class, flattened to C."""

    false: NDArray[np.bool_]
    """(scans, C) which of the scans without any lesion they mark."""
    in_budget: NDArray[np.bool_]
    """(C,) whether they keep the class's own limit, or come nearest to it."""
    keeps_own_limit: bool
    recall: NDArray[np.float64]
    """(C,)."""
    order: NDArray[np.intp]
    """(C,) candidates, the best first."""


def healthy_scans(outcomes: Sequence[Outcome], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the scans that are known to hold no lesion of any class, sorted."""
    known: dict[str, set[str]] = {}
    for outcome in outcomes:
        if isinstance(outcome, HealthyOutcome):
            known.setdefault(outcome.scan, set()).add(outcome.class_name)
    return tuple(sorted(scan for scan, names in known.items() if names >= set(class_names)))


def choose(
    outcomes: Sequence[Outcome],
    grid: Grid,
    *,
    own: Mapping[str, Index],
    max_fp_scans: float,
) -> Choice:
    """Choose a candidate for every class.

    Args:
        outcomes: Of all scans.
        grid: The candidates.
        own: Class -> the thresholds that the model has; no smaller volume is tried.
        max_fp_scans: Share of healthy scans that may be marked.
    """
    scans = healthy_scans(outcomes, list(own))
    options = [
        _options([o for o in outcomes if o.class_name == name], scans, grid, index, max_fp_scans)
        for name, index in own.items()
    ]
    allowed = allowed_scans(max_fp_scans, len(scans))
    spent = np.zeros(len(scans), dtype=bool)
    for option in options:
        if not _free(option, spent).any():
            spent |= option.false[:, _cheapest(option, spent)]
    while (best := _best_buy(options, spent, allowed - int(spent.sum()))) is not None:
        spent |= best
    taken = [_first(option, _free(option, spent)) for option in options]
    marked = np.array([o.false[:, c] for o, c in zip(options, taken, strict=True)]).any(axis=0)
    return Choice(
        indices={name: _index(c, grid) for name, c in zip(own, taken, strict=True)},
        met=int(marked.sum()) <= allowed and all(option.keeps_own_limit for option in options),
    )


def _options(
    outcomes: Sequence[Outcome],
    scans: Sequence[str],
    grid: Grid,
    own: Index,
    max_fp_scans: float,
) -> _Options:
    healthy = {o.scan: o.false.ravel() for o in outcomes if isinstance(o, HealthyOutcome)}
    size = int(np.prod(grid.shape))
    false_scans = np.array(list(healthy.values())).reshape(len(healthy), size).sum(axis=0)
    small = np.broadcast_to(np.arange(grid.shape[2]) < own[2], grid.shape).ravel()
    false_scans = np.where(small, len(healthy) + 1, false_scans)
    limit = max(allowed_scans(max_fp_scans, len(healthy)), int(false_scans.min()))
    recall, dice = _worth([o for o in outcomes if isinstance(o, LesionOutcome)], size)
    return _Options(
        false=np.array([healthy[scan] for scan in scans], dtype=bool).reshape(len(scans), size),
        in_budget=false_scans <= limit,
        keeps_own_limit=limit == allowed_scans(max_fp_scans, len(healthy)),
        recall=recall,
        order=np.lexsort((grid.steps_from(own).ravel(), false_scans, -dice, -recall)),
    )


def _worth(
    outcomes: Sequence[LesionOutcome], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return recall and mean Dice (C,); 0 for a class that no scan holds."""
    if not outcomes:
        return np.zeros(size), np.zeros(size)
    lesions = sum(int(o.lesions.sum()) for o in outcomes)
    detected = np.sum([o.detected.sum(axis=0) for o in outcomes], axis=0)
    dice = np.mean([o.dice for o in outcomes], axis=0)
    return detected.ravel() / lesions, dice.ravel()


def _free(option: _Options, spent: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (C,) which candidates mark scans that are given up anyway, and no other."""
    free: NDArray[np.bool_] = option.in_budget & ~option.false[~spent].any(axis=0)
    return free


def _first(option: _Options, among: NDArray[np.bool_]) -> int:
    """Return the best of some candidates."""
    return int(option.order[among[option.order]][0])


def _cheapest(option: _Options, spent: NDArray[np.bool_]) -> int:
    """Return the best of the candidates that mark the fewest scans more."""
    cost = np.where(option.in_budget, option.false[~spent].sum(axis=0), len(spent) + 1)
    return _first(option, cost == cost.min())


def _best_buy(
    options: Sequence[_Options], spent: NDArray[np.bool_], left: int
) -> NDArray[np.bool_] | None:
    """Return the scans of the candidate that gains most recall a scan; None if none gains."""
    best, gain = None, 0.0
    for option in options:
        cost = option.false[~spent].sum(axis=0)
        payable = option.in_budget & (cost > 0) & (cost <= left)
        now = option.recall[_first(option, _free(option, spent))]
        gains = np.where(payable, option.recall - now, 0.0) / np.maximum(cost, 1)
        if gains.max() > gain:
            gain = float(gains.max())
            best = option.false[:, _first(option, gains == gain)]
    return best


def _index(flat: int, grid: Grid) -> Index:
    p, t, v = np.unravel_index(flat, grid.shape)
    return int(p), int(t), int(v)
