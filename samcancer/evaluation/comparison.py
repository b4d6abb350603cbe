"""Two sets of predictions of the same cases, compared case by case.

Every difference is the first less the second, over the cases in which both are defined: DSC and NSD
by the protocol, recall over cases that hold a lesion of the class, false-positive lesions (those
that :mod:`samcancer.evaluation.lesions` calls not true) over cases that annotate the class and have
both predictions. A patient's scans are averaged and count as one pair. The p-values are those of
single tests; nothing is corrected for looking at several classes and figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from samcancer.evaluation.cases import Evaluated
from samcancer.evaluation.lesions import tabulate
from samcancer.evaluation.patients import ANY_LESION
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.statistics import paired_difference
from samcancer.evaluation.summary import interval_text

Rows = Sequence[ClassResult]
"""The results of one case in the classes that are looked at."""

Pair = tuple[Rows, Rows]
"""One case by the first and by the second."""


class Metric(NamedTuple):
    """A figure of one case that two systems are compared by."""

    of_case: Callable[[Rows, Rows], float]
    """From a system's results and the other's; NaN where it is not defined."""
    lower_is_better: bool = False


def _dice(own: Rows, _: Rows) -> float:
    return own[0].score.dice


def _nsd(own: Rows, _: Rows) -> float:
    return own[0].score.nsd


def _recall(own: Rows, _: Rows) -> float:
    return tabulate([lesion for r in own for lesion in r.lesions]).recall


def _false_positives(own: Rows, other: Rows) -> float:
    if any(r.missing for r in (*own, *other)):
        return math.nan
    table = tabulate([lesion for r in own for lesion in r.lesions])
    return float(table.prediction - table.true)


SCORES = {"dice": Metric(_dice), "nsd": Metric(_nsd)}
"""Of every class."""

LESION_METRICS = {
    "lesion_recall": Metric(_recall),
    "false_positive_lesions": Metric(_false_positives, lower_is_better=True),
}
"""Of every lesion class, and of all of them together."""


def compare(
    first: Evaluated, second: Evaluated, *, patients: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the paired differences of every class as plain data for JSON.

    Args:
        first: Of one set of predictions.
        second: Of the other, against the same references by the same rules.
        patients: Case -> patient; None when every case is one.
    """
    found = [_by_case(evaluated) for evaluated in (first, second)]
    common = [case_id for case_id in found[0] if case_id in found[1]]
    names = list(dict.fromkeys(n for c in common for n in found[0][c] if n in found[1][c]))
    kinds = {r.class_name: r.kind for r in first.results}
    lesions = [n for n in names if kinds[n] == "lesion"]

    def table(classes: Sequence[str], metrics: Mapping[str, Metric]) -> dict[str, Any]:
        pairs: dict[str, Pair] = {}
        for case_id in common:
            rows = [[f[case_id][n] for n in classes if n in f[case_id]] for f in found]
            if rows[0] and rows[1]:
                pairs[case_id] = (rows[0], rows[1])
        groups = None if patients is None else [patients[case_id] for case_id in pairs]
        return {
            name: paired_difference(
                [metric.of_case(one, other) for one, other in pairs.values()],
                [metric.of_case(other, one) for one, other in pairs.values()],
                groups=groups,
                lower_is_better=metric.lower_is_better,
            ).to_dict()
            for name, metric in metrics.items()
        }

    classes = {n: table([n], {**SCORES, **(LESION_METRICS if n in lesions else {})}) for n in names}
    return {
        "difference": "prediction less compared",
        "cases": len(common),
        "failures": {**first.failures, **second.failures},
        "missing_predictions": {
            "prediction": list(first.missing),
            "compared": list(second.missing),
        },
        "interval": interval_text(patients),
        "test": "Wilcoxon signed-rank, two-sided, equal pairs left out, not corrected",
        "classes": {**classes, **({ANY_LESION: table(lesions, LESION_METRICS)} if lesions else {})},
    }


def _by_case(evaluated: Evaluated) -> dict[str, dict[str, ClassResult]]:
    """Return case -> class that it annotates -> result."""
    found: dict[str, dict[str, ClassResult]] = {}
    for result in evaluated.results:
        classes = found.setdefault(result.case_id, {})
        if result.annotated:
            classes[result.class_name] = result
    return found
