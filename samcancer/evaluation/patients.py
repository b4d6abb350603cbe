"""Detection by patient and by healthy scan, when cases annotate different classes.

A patient is a case, unless a table says which cases are scans of one patient. A patient *has* a
lesion when a scan of theirs holds an annotated one, and *has none* when every scan annotates every
lesion class evaluated and holds none; of any other patient it is not known. A missing prediction
counts as wrong. A *healthy* scan annotates every lesion class evaluated and holds none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samcancer.errors import InputError
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.statistics import (
    bootstrap_harmonic_mean,
    bootstrap_mean,
    harmonic_mean,
    none_if_nan,
    ratio,
)
from samcancer.files import read_csv

ANY_LESION = "any lesion"
"""Row of a table that looks at all lesion classes together."""

Unit = Sequence[ClassResult]
"""The results of one patient, or of one scan, in the classes that are looked at."""


def read_patients(path: Path, case_ids: Iterable[str]) -> dict[str, str]:
    """Read which patient each case is of, from a CSV file with the columns case and patient.

    Args:
        path: Table; further columns and cases are left alone.
        case_ids: Cases that need a patient.

    Raises:
        InputError: When the file is no such table, or a case has no patient or two.
    """
    patients: dict[str, str] = {}
    for row in read_csv(path, required=("case", "patient")):
        case_id, patient = row["case"], row["patient"]
        if patients.setdefault(case_id, patient) != patient:
            raise InputError(
                f"gives the case {case_id!r} two patients", path=path, mend="remove one line"
            )
    for case_id in case_ids:
        if not patients.get(case_id):
            raise InputError(f"gives the case {case_id!r} no patient", path=path, mend="add it")
    return patients


def group_results(
    results: Iterable[ClassResult], names: Sequence[str], patients: Mapping[str, str] | None = None
) -> list[Unit]:
    """Return the results of some classes by patient, or by scan when ``patients`` is None."""
    units: dict[str, list[ClassResult]] = {}
    for result in results:
        if result.class_name in names:
            unit = result.case_id if patients is None else patients[result.case_id]
            units.setdefault(unit, []).append(result)
    return list(units.values())


def holds_lesion(unit: Unit) -> bool:
    """Return whether an annotated lesion is there."""
    return any(r.counts.reference for r in unit)


def annotates_all(unit: Unit) -> bool:
    """Return whether every class is annotated, and whole, in every scan."""
    return all(r.annotated and r.whole for r in unit)


def predicts_lesion(unit: Unit) -> bool:
    """Return whether a lesion is predicted that the annotation can judge."""
    return any(r.counts.prediction for r in unit)


def predicts_unverified(unit: Unit) -> bool:
    """Return whether a lesion is predicted that the annotation cannot judge."""
    return any(r.unverified_voxels for r in unit)


def is_missing(unit: Unit) -> bool:
    """Return whether a scan has no prediction."""
    return any(r.missing for r in unit)


def patient_tables(
    results: Sequence[ClassResult], lesions: Sequence[str], patients: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return sensitivity, specificity and harmonic mean for any lesion and for each class."""
    rows = {ANY_LESION: lesions, **{name: [name] for name in lesions}}
    return {
        name: _patient_table(group_results(results, classes, patients))
        for name, classes in rows.items()
    }


def healthy_table(results: Sequence[ClassResult], lesions: Sequence[str]) -> dict[str, Any]:
    """Return how often, and how much, lesions are predicted in healthy scans."""
    scans = group_results(results, lesions)
    healthy = [scan for scan in scans if annotates_all(scan) and not holds_lesion(scan)]
    predicted = [scan for scan in healthy if not is_missing(scan)]
    found = [scan for scan in predicted if predicts_lesion(scan)]
    volumes_ml = [sum(r.prediction_ml for r in scan) for scan in predicted]
    return {
        "scans": len(healthy),
        "missing_predictions": len(healthy) - len(predicted),
        "with_predicted_lesion": len(found),
        "false_positive_rate": none_if_nan(ratio(len(found), len(predicted))),
        "false_positive_ml": bootstrap_mean(volumes_ml).to_dict(),
        "false_positive_lesions": bootstrap_mean(
            float(sum(len(r.lesions) for r in scan)) for scan in predicted
        ).to_dict(),
    }


def _patient_table(units: Sequence[Unit]) -> dict[str, Any]:
    ill = [unit for unit in units if holds_lesion(unit)]
    without = [unit for unit in units if not holds_lesion(unit) and annotates_all(unit)]
    found = [predicts_lesion(unit) and not is_missing(unit) for unit in ill]
    clear = [not predicts_lesion(unit) and not is_missing(unit) for unit in without]
    sensitivity, specificity = bootstrap_mean(found), bootstrap_mean(clear)
    return {
        "with_lesion": len(ill),
        "without_lesion": len(without),
        "sensitivity": none_if_nan(sensitivity.mean),
        "specificity": none_if_nan(specificity.mean),
        "harmonic_mean": none_if_nan(harmonic_mean(sensitivity.mean, specificity.mean)),
        "intervals": {
            "sensitivity": _ends(sensitivity.lower, sensitivity.upper),
            "specificity": _ends(specificity.lower, specificity.upper),
            "harmonic_mean": _ends(*bootstrap_harmonic_mean(found, clear)),
        },
    }


def _ends(lower: float, upper: float) -> list[float | None]:
    return [none_if_nan(lower), none_if_nan(upper)]
