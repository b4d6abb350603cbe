"""From the results of all cases to the figures of a study, as plain data for JSON.

A *patient* is a case here: folders of label maps do not say which scans share a patient. A case is
*healthy* when it annotates every lesion class that is evaluated and holds none of them. A missing
prediction counts as wrong, for a patient with a lesion as for one without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from samcancer.evaluation.cases import ClassResult, Evaluated
from samcancer.evaluation.lesions import MIN_OVERLAP, tabulate_by_band
from samcancer.evaluation.protocols import Protocol
from samcancer.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_mean,
    harmonic_mean,
    none_if_nan,
    ratio,
)

ANY_LESION = "any lesion"
"""Row of the patient table that looks at all lesion classes together."""


def summarise(evaluated: Evaluated, *, protocol: Protocol, tolerance_mm: float) -> dict[str, Any]:
    """Return every figure of an evaluation."""
    results = evaluated.results
    names = list(dict.fromkeys(r.class_name for r in results))
    scored = {n: [r for r in results if r.class_name == n and r.annotated] for n in names}
    lesions = [n for n in names if any(r.kind == "lesion" for r in scored[n])]
    return {
        "protocol": protocol,
        "tolerance_mm": tolerance_mm,
        "cases": len({r.case_id for r in results}),
        "missing_predictions": list(evaluated.missing),
        "failures": dict(evaluated.failures),
        "predictions_without_reference": list(evaluated.extra),
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over cases, {RESAMPLES} resamples",
        "classes": {n: _class_means(scored[n]) for n in names if scored[n]},
        "lesion_matching": f"covered by at least {MIN_OVERLAP:.0%} of its volume",
        "lesions": {n: _lesion_tables(scored[n]) for n in lesions},
        "patients": _patient_tables(results, lesions),
        "healthy": _healthy_table(results, lesions),
        "unverified": _unverified_table(results, names),
        **({"nnunet": nnunet_summary(results)} if protocol == "nnunet" else {}),
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


def _class_means(results: Sequence[ClassResult]) -> dict[str, Any]:
    present = [r for r in results if r.counts.reference > 0]
    return {
        "dice": bootstrap_mean(r.score.dice for r in results).to_dict(),
        "nsd": bootstrap_mean(r.score.nsd for r in results).to_dict(),
        "dice_where_present": bootstrap_mean(r.score.dice for r in present).to_dict(),
        "nsd_where_present": bootstrap_mean(r.score.nsd for r in present).to_dict(),
        "volume_error_ml": bootstrap_mean(
            r.prediction_ml - r.reference_ml for r in results
        ).to_dict(),
    }


def _lesion_tables(results: Sequence[ClassResult]) -> dict[str, Any]:
    lesions = [lesion for result in results for lesion in result.lesions]
    return {band: table.to_dict() for band, table in tabulate_by_band(lesions).items()}


def _patient_tables(results: Sequence[ClassResult], lesions: Sequence[str]) -> dict[str, Any]:
    tables = {
        name: _patient_table([[r] for r in results if r.class_name == name and r.annotated])
        for name in lesions
    }
    cases = [[r for r in case if r.annotated] for case in _by_case(results, lesions)]
    judged = [
        annotated
        for annotated, case in zip(cases, _by_case(results, lesions), strict=True)
        if any(r.counts.reference for r in annotated) or _annotates_all(case, lesions)
    ]
    return {ANY_LESION: _patient_table(judged), **tables}


def _patient_table(cases: Sequence[Sequence[ClassResult]]) -> dict[str, Any]:
    """Return sensitivity and specificity of "has a lesion" over cases, each a list of classes."""
    true_positive = false_negative = true_negative = false_positive = 0
    for case in cases:
        actual = any(r.counts.reference for r in case)
        predicted = any(r.counts.prediction for r in case)
        right = actual == predicted and not any(r.missing for r in case)
        true_positive += actual and right
        false_negative += actual and not right
        true_negative += not actual and right
        false_positive += not actual and not right
    sensitivity = ratio(true_positive, true_positive + false_negative)
    specificity = ratio(true_negative, true_negative + false_positive)
    return {
        "with_lesion": true_positive + false_negative,
        "without_lesion": true_negative + false_positive,
        "sensitivity": none_if_nan(sensitivity),
        "specificity": none_if_nan(specificity),
        "harmonic_mean": none_if_nan(harmonic_mean(sensitivity, specificity)),
    }


def _healthy_table(results: Sequence[ClassResult], lesions: Sequence[str]) -> dict[str, Any]:
    healthy = [
        case
        for case in _by_case(results, lesions)
        if _annotates_all(case, lesions) and not any(r.counts.reference for r in case)
    ]
    predicted = [case for case in healthy if not any(r.missing for r in case)]
    found = [case for case in predicted if any(r.counts.prediction for r in case)]
    volumes_ml = [sum(r.prediction_ml for r in case) for case in predicted]
    return {
        "scans": len(healthy),
        "missing_predictions": len(healthy) - len(predicted),
        "with_predicted_lesion": len(found),
        "false_positive_rate": none_if_nan(ratio(len(found), len(predicted))),
        "false_positive_ml": bootstrap_mean(volumes_ml).to_dict(),
        "false_positive_lesions": bootstrap_mean(
            float(sum(len(r.lesions) for r in case)) for case in predicted
        ).to_dict(),
    }


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


def _by_case(results: Sequence[ClassResult], lesions: Sequence[str]) -> list[list[ClassResult]]:
    cases: dict[str, list[ClassResult]] = {}
    for result in results:
        if result.class_name in lesions:
            cases.setdefault(result.case_id, []).append(result)
    return list(cases.values())


def _annotates_all(case: Sequence[ClassResult], lesions: Sequence[str]) -> bool:
    return {r.class_name for r in case if r.annotated} == set(lesions)
