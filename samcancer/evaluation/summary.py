"""From the results of all cases to the figures of a study, as plain data for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from samcancer.evaluation.bounds import bound_tables
from samcancer.evaluation.cases import Evaluated
from samcancer.evaluation.lesions import MIN_OVERLAP, tabulate_by_band
from samcancer.evaluation.patients import healthy_table, patient_tables
from samcancer.evaluation.protocols import (
    FLARE23_TOLERANCES_MM,
    Protocol,
    class_rules,
    flare_rounded,
)
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_mean,
    none_if_nan,
    ratio,
)


def summarise(
    evaluated: Evaluated,
    *,
    protocol: Protocol,
    tolerance_mm: float | None = None,
    patients: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return every figure of an evaluation.

    Args:
        evaluated: Results of all cases.
        protocol: That they were scored by.
        tolerance_mm: That they were scored with; None is the protocol's.
        patients: Case -> patient, for cases that are scans of the same patients.
    """
    results = evaluated.results
    names = list(dict.fromkeys(r.class_name for r in results))
    scored = {n: [r for r in results if r.class_name == n and r.annotated] for n in names}
    lesions = [n for n in names if any(r.kind == "lesion" for r in scored[n])]
    rules = {n: class_rules(protocol, n, tolerance_mm=tolerance_mm) for n in names if scored[n]}
    tolerances = {rule.tolerance_mm for rule in rules.values()}
    return {
        "protocol": protocol,
        "tolerance_mm": tolerances.pop() if len(tolerances) == 1 else None,
        "cases": len({r.case_id for r in results}),
        "missing_predictions": list(evaluated.missing),
        "failures": dict(evaluated.failures),
        "predictions_without_reference": list(evaluated.extra),
        "interval": interval_text(patients),
        "classes": {
            n: {"tolerance_mm": rules[n].tolerance_mm, **_class_means(scored[n], patients)}
            for n in rules
        },
        "lesion_matching": f"covered by at least {MIN_OVERLAP:.0%} of its volume",
        "lesions": {n: _lesion_tables(scored[n]) for n in lesions},
        "patients": patient_tables(results, lesions, patients),
        "healthy": healthy_table(results, lesions),
        "unverified": _unverified_table(results, names),
        "bounds": bound_tables(results, lesions, patients),
        **({"nnunet": nnunet_summary(results)} if protocol == "nnunet" else {}),
        **({"flare23": flare23_summary(results)} if protocol == "flare23" else {}),
    }


def interval_text(patients: Mapping[str, str] | None) -> str:
    """Return what the intervals are, in words."""
    unit = "cases" if patients is None else "patients"
    return f"{CONFIDENCE:.0%} percentile bootstrap over {unit}, {RESAMPLES} resamples"


def flare23_summary(results: Sequence[ClassResult]) -> dict[str, Any]:
    """Return the overall figures of the FLARE 2023 script: rounded means, and means of those.

    The organ means are over the organs that are scored; ``organs`` counts them.
    """
    scored = [r for r in results if r.annotated]
    kinds = {r.class_name: r.kind for r in scored}
    means = {
        metric: {
            n: flare_rounded(
                float(np.mean([getattr(r.score, metric) for r in scored if r.class_name == n]))
            )
            for n in kinds
        }
        for metric in ("dice", "nsd")
    }
    organs = [n for n, kind in kinds.items() if kind == "organ"]
    lesions = [n for n, kind in kinds.items() if kind == "lesion"]
    return {
        "organs": len(organs),
        "organs_of_the_challenge": len(FLARE23_TOLERANCES_MM) - 1,
        **{
            f"organ_{metric}": flare_rounded(float(np.mean([found[n] for n in organs])))
            if organs
            else None
            for metric, found in means.items()
        },
        **{
            f"tumor_{metric}": found[lesions[0]] if lesions else None
            for metric, found in means.items()
        },
        "classes": {n: {metric: found[n] for metric, found in means.items()} for n in kinds},
    }


def nnunet_summary(results: Sequence[ClassResult]) -> dict[str, Any]:
    """Return the aggregate of nnU-Net v2's ``summary.json``, keyed by class name.

    The mean of a class is over its cases, NaN left out; ``foreground_mean`` is the plain mean of
    the class means, hence None when a class has none.
    """
    names = list(dict.fromkeys(r.class_name for r in results if r.annotated))
    rows = {
        n: [_nnunet_metrics(r) for r in results if r.class_name == n and r.annotated] for n in names
    }
    means = {n: {m: _mean([row[m] for row in rows[n]]) for m in rows[n][0]} for n in names}
    metrics = list(means[names[0]]) if names else []
    foreground = {m: _plain_mean([means[n][m] for n in names]) for m in metrics}
    return {
        "mean": {n: {m: none_if_nan(v) for m, v in means[n].items()} for n in names},
        "foreground_mean": {m: none_if_nan(v) for m, v in foreground.items()},
    }


def _nnunet_metrics(result: ClassResult) -> dict[str, float]:
    counts = result.counts
    return {
        "Dice": result.score.dice,
        "FN": counts.false_negative,
        "FP": counts.false_positive,
        "IoU": result.score.iou,
        "TN": counts.true_negative,
        "TP": counts.true_positive,
        "n_pred": counts.prediction,
        "n_ref": counts.reference,
    }


def _mean(values: Sequence[float]) -> float:
    return _plain_mean([v for v in values if not math.isnan(v)])


def _plain_mean(values: Sequence[float]) -> float:
    return ratio(math.fsum(values), len(values))


def _class_means(
    results: Sequence[ClassResult], patients: Mapping[str, str] | None
) -> dict[str, Any]:
    present = [r for r in results if r.counts.reference > 0]

    def mean(kept: Sequence[ClassResult], values: Sequence[float]) -> dict[str, Any]:
        groups = None if patients is None else [patients[r.case_id] for r in kept]
        return bootstrap_mean(values, groups=groups).to_dict()

    return {
        "dice": mean(results, [r.score.dice for r in results]),
        "nsd": mean(results, [r.score.nsd for r in results]),
        "dice_where_present": mean(present, [r.score.dice for r in present]),
        "nsd_where_present": mean(present, [r.score.nsd for r in present]),
        "volume_error_ml": mean(results, [r.prediction_ml - r.reference_ml for r in results]),
    }


def _lesion_tables(results: Sequence[ClassResult]) -> dict[str, Any]:
    lesions = [lesion for result in results for lesion in result.lesions]
    return {band: table.to_dict() for band, table in tabulate_by_band(lesions).items()}


def _unverified_table(results: Sequence[ClassResult], names: Sequence[str]) -> dict[str, Any]:
    tables = {}
    for name in names:
        found = [r for r in results if r.class_name == name and r.unverified_voxels]
        if found:
            tables[name] = {
                "cases": len(found),
                "volume_ml": sum(r.unverified_ml for r in found),
                "lesions": sum(r.unverified_lesions for r in found),
            }
    return tables
