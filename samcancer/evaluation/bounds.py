"""Bounds of the figures that predictions in unannotated classes could change.

Optimistic: every unverified prediction is right. Pessimistic: every one is a false positive. Both
take a class that a scan neither annotates nor is predicted to hold as absent from it, and bound the
figure over all scans, while the measured figure is over those whose annotation can judge it.
Recall has no such bounds, for nobody counted the lesions that are neither annotated nor predicted;
nor has DSC of a class that a case does not annotate, which could be anything. DSC of all lesions as
one class is bounded where a case annotates some of them.

With D of R reference lesions detected, T of P predicted ones true, and U unverified ones:
precision from T / (P + U) to (T + U) / (P + U), F1 their harmonic mean with D / R.
With N of M patients without a lesion judged rightly, and of the patients of whom it is not known A
with an unverified prediction, B without one but wrong (a false positive or a missing prediction)
and C clear: specificity from (N + C) / (M + A + B + C) to (N + C) / (M + B + C). The
false-positive share of healthy scans is 1 less the same over scans with a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from samcancer.evaluation.lesions import tabulate
from samcancer.evaluation.patients import (
    ANY_LESION,
    Unit,
    annotates_all,
    group_results,
    holds_lesion,
    is_missing,
    predicts_lesion,
    predicts_unverified,
)
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.statistics import harmonic_mean, none_if_nan, ratio


def bound_tables(
    results: Sequence[ClassResult], lesions: Sequence[str], patients: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the bounds for any lesion and for each class; empty when all is annotated.

    Args:
        results: Of all cases.
        lesions: Lesion classes that some case annotates.
        patients: Case -> patient; None when every case is one.
    """
    own = [r for r in results if r.class_name in lesions]
    if annotates_all(own):
        return {}
    rows = {ANY_LESION: lesions, **{name: [name] for name in lesions}}
    scans = [scan for scan in group_results(own, lesions) if not is_missing(scan)]
    return {
        "classes": {
            name: _class_bounds([r for r in own if r.class_name in classes], patients)
            for name, classes in rows.items()
        },
        "healthy_false_positive_rate": _complement(_specificity(scans)),
    }


def _class_bounds(own: Sequence[ClassResult], patients: Mapping[str, str] | None) -> dict[str, Any]:
    names = list(dict.fromkeys(r.class_name for r in own))
    table = tabulate([lesion for r in own if r.annotated for lesion in r.lesions])
    unverified = sum(r.unverified_lesions for r in own)
    everything = table.prediction + unverified
    pessimistic = ratio(table.true, everything)
    optimistic = ratio(table.true + unverified, everything)
    bounds = {
        "unverified_lesions": unverified,
        "precision": _row(table.precision, pessimistic, optimistic),
        "f1": _row(
            table.f1,
            harmonic_mean(table.recall, pessimistic),
            harmonic_mean(table.recall, optimistic),
        ),
        "specificity": _specificity(group_results(own, names, patients)),
    }
    in_part = [r for r in own if r.annotated and not r.whole]
    if in_part:
        bounds["dice"] = _dice([r for r in own if r.annotated])
    return bounds


def _specificity(units: Sequence[Unit]) -> dict[str, Any]:
    without = [unit for unit in units if not holds_lesion(unit)]
    known = [unit for unit in without if annotates_all(unit)]
    unknown = [unit for unit in without if not annotates_all(unit)]
    suspected = [unit for unit in unknown if predicts_unverified(unit)]
    others = [unit for unit in unknown if not predicts_unverified(unit)]
    right = sum(map(_is_clear, known))
    right_of_all = right + sum(map(_is_clear, others))
    judged = len(known) + len(others)
    return {
        **_row(
            ratio(right, len(known)),
            ratio(right_of_all, judged + len(suspected)),
            ratio(right_of_all, judged),
        ),
        "known": len(known),
        "unknown": len(unknown),
        "with_unverified": len(suspected),
    }


def _is_clear(unit: Unit) -> bool:
    return not predicts_lesion(unit) and not is_missing(unit)


def _dice(annotated: Sequence[ClassResult]) -> dict[str, Any]:
    """Bound the mean Dice of all lesions as one class."""
    measured = [r.score.dice for r in annotated]
    pessimistic = [_case_dice(r, right=False) for r in annotated]
    optimistic = [_case_dice(r, right=True) for r in annotated]
    return _row(*(_mean(values) for values in (measured, pessimistic, optimistic)))


def _case_dice(result: ClassResult, *, right: bool) -> float:
    """Return Dice when the unverified voxels outside the reference are lesion, or are not.

    Those inside the reference lie in an annotated lesion of another class, so they are right.
    """
    if result.unverified_voxels == 0:
        return result.score.dice
    counts, inside = result.counts, result.unverified_in_reference
    gained = result.unverified_voxels - inside if right else 0
    common = counts.true_positive + inside + gained
    both = counts.reference + gained + counts.prediction + result.unverified_voxels
    return 2 * common / both


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return ratio(math.fsum(kept), len(kept))


def _row(measured: float, pessimistic: float, optimistic: float) -> dict[str, float | None]:
    return {
        "measured": none_if_nan(measured),
        "pessimistic": none_if_nan(pessimistic),
        "optimistic": none_if_nan(optimistic),
    }


def _complement(bounds: Mapping[str, Any]) -> dict[str, Any]:
    figures = ("measured", "pessimistic", "optimistic")
    return {
        key: 1 - value if key in figures and value is not None else value
        for key, value in bounds.items()
    }
