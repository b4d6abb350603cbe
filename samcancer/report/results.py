"""From the files of ``samcancer evaluate`` to the page's tables and charts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcancer.errors import InputError
from samcancer.files import read_json, text_of_csv
from samcancer.report.charts import IntervalRow, interval_chart, legend
from samcancer.report.page import Cell, Figure, Table

_MEND = "run samcancer evaluate into this folder first"
_NONE = "–"
"""Shown where a figure is not defined."""


@dataclass(frozen=True)
class CaseScore:
    """One class of one case."""

    dice: float | None
    """None where the protocol defines none."""
    reference_ml: float
    prediction_ml: float
    reference_lesions: int
    detected_lesions: int


@dataclass(frozen=True)
class Scores:
    """One evaluation."""

    summary: Mapping[str, Any]
    cases: Mapping[tuple[str, str], CaseScore]
    """(case id, class name) -> score; classes that a case does not annotate are left out."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Evaluated classes in the order of the evaluation."""
        return tuple(self.summary["classes"])

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Evaluated cases in the order of the evaluation."""
        return tuple(dict.fromkeys(case_id for case_id, _ in self.cases))


def read_scores(folder: Path) -> Scores:
    """Read ``summary.json`` and ``per_case.csv`` of an evaluation.

    Raises:
        InputError: When one is missing or not of that form.
    """
    summary = read_json(folder / "summary.json")
    path = folder / "per_case.csv"
    if not isinstance(summary, dict) or "classes" not in summary:
        raise InputError(
            "not the summary of an evaluation",
            path=folder / "summary.json",
            mend="run evaluate again",
        )
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        cases = {
            (text_of_csv(row["case"]), text_of_csv(row["class"])): _case(row)
            for row in rows
            if row["annotated"] == "1"
        }
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend=_MEND) from None
    except (KeyError, ValueError) as error:
        raise InputError(
            f"not the table of an evaluation ({error})", path=path, mend="run evaluate again"
        ) from None
    return Scores(summary, cases)


def score_table(arms: Mapping[str, Scores], titles: Mapping[str, str]) -> Table:
    """Return lesion scores per class and arm."""
    first = next(iter(arms.values())).summary
    rows: list[tuple[Cell, ...]] = []
    groups: list[int] = []
    for name in _class_names(arms):
        groups.append(len(rows))
        for number, (arm, scores) in enumerate(arms.items()):
            title = titles.get(name, name) if number == 0 else ""
            rows.append((Cell(title), Cell(arm), *_score_cells(scores.summary, name)))
    return Table(
        caption="Scores by class",
        header=(
            "Class",
            "Arm",
            "Cases with it",
            "DSC",
            _nsd_title(first["tolerance_mm"]),
            "DSC, all cases",
            "Lesions found",
            "Lesions true",
        ),
        rows=tuple(rows),
        note=(
            f"Mean over cases that hold the class, with the {first['interval']}. "
            f"“All cases” follows the {first['protocol']} protocol, in which a class predicted "
            "where there is none scores 0. Found: share of the reference's lesions "
            f"{first['lesion_matching']} by the prediction; true: the same of the predicted ones."
        ),
        text_columns=2,
        groups=tuple(groups[1:]),
    )


def patient_table(arms: Mapping[str, Scores]) -> Table:
    """Return what becomes of whole patients, healthy ones among them."""
    rows = []
    for arm, scores in arms.items():
        healthy = scores.summary["healthy"]
        patients: Mapping[str, Any] = next(iter(scores.summary["patients"].values()), {})
        rows.append(
            (
                Cell(arm),
                Cell(str(healthy["scans"])),
                _share(
                    healthy["false_positive_rate"],
                    healthy["with_predicted_lesion"],
                    healthy["scans"] - healthy["missing_predictions"],
                ),
                _mean(healthy["false_positive_ml"], decimals=2),
                Cell(_number(patients.get("sensitivity"))),
                Cell(_number(patients.get("specificity"))),
            )
        )
    return Table(
        caption="Healthy scans and patients",
        header=(
            "Arm",
            "Healthy scans",
            "With a false lesion",
            "False ml a scan",
            "Sensitivity",
            "Specificity",
        ),
        rows=tuple(rows),
        note="Sensitivity and specificity are of “holds any lesion”, over patients.",
    )


def score_figure(arms: Mapping[str, Scores], titles: Mapping[str, str]) -> Figure:
    """Return DSC per class and arm as dots with intervals."""
    rows = []
    for name in _class_names(arms):
        for number, scores in enumerate(arms.values()):
            mean = scores.summary["classes"].get(name, {}).get("dice_where_present", {"n": 0})
            if mean["n"]:
                label = titles.get(name, name) if number == 0 or len(arms) == 1 else ""
                rows.append(IntervalRow(label, mean["mean"], mean["lower"], mean["upper"], number))
    return Figure(
        title="Lesion DSC by class",
        chart_svg=interval_chart(
            rows, title="Lesion DSC by class and arm", x_label="lesion DSC (1 is perfect)"
        ),
        legend_html=legend(list(arms)),
        caption="Mean and interval over the cases that hold the class.",
    )


def case_table(case_id: str, arms: Mapping[str, Scores], titles: Mapping[str, str]) -> Table | None:
    """Return one patient's DSC per class and arm; None when no class is there or predicted."""
    rows = []
    for name in _class_names(arms):
        found = [scores.cases.get((case_id, name)) for scores in arms.values()]
        kept = [score for score in found if score is not None]
        if not any(score.reference_ml or score.prediction_ml for score in kept):
            continue
        lesions = f"{kept[0].reference_lesions} of {kept[0].reference_ml:.1f} ml"
        cells = [
            Cell(
                _number(score.dice) if score else _NONE,
                f"{score.prediction_ml:.1f} ml predicted" if score else "",
            )
            for score in found
        ]
        rows.append((Cell(titles.get(name, name)), Cell(lesions), *cells))
    if not rows:
        return None
    return Table(
        caption="DSC of this patient", header=("Class", "Reference", *arms), rows=tuple(rows)
    )


def mean_dice(case_id: str, scores: Scores) -> float | None:
    """Return the mean DSC over the classes a case holds; None on a healthy case."""
    held = [
        score.dice or 0.0
        for (case, _), score in scores.cases.items()
        if case == case_id and score.reference_ml > 0
    ]
    return sum(held) / len(held) if held else None


def _case(row: Mapping[str, str]) -> CaseScore:
    return CaseScore(
        dice=float(row["dice"]) if row["dice"] else None,
        reference_ml=float(row["reference_ml"]),
        prediction_ml=float(row["prediction_ml"]),
        reference_lesions=int(row["reference_lesions"]),
        detected_lesions=int(row["detected_lesions"]),
    )


def _class_names(arms: Mapping[str, Scores]) -> list[str]:
    return list(dict.fromkeys(name for scores in arms.values() for name in scores.class_names))


def _score_cells(summary: Mapping[str, Any], name: str) -> Sequence[Cell]:
    means = summary["classes"].get(name)
    lesions = summary["lesions"].get(name, {}).get("all")
    if means is None:
        return [Cell(_NONE)] * 6
    cells = [
        Cell(str(means["dice_where_present"]["n"])),
        _mean(means["dice_where_present"]),
        _mean(means["nsd_where_present"]),
        _mean(means["dice"]),
    ]
    if lesions is None:
        return [*cells, Cell(_NONE), Cell(_NONE)]
    return [
        *cells,
        _share(lesions["recall"], lesions["detected"], lesions["reference_lesions"]),
        _share(lesions["precision"], lesions["true"], lesions["predicted_lesions"]),
    ]


def _nsd_title(tolerance_mm: float | None) -> str:
    """Return a column's title; a protocol may have a tolerance for each class."""
    return "NSD" if tolerance_mm is None else f"NSD {tolerance_mm:g} mm"


def _mean(content: Mapping[str, Any], *, decimals: int = 3) -> Cell:
    if not content["n"]:
        return Cell(_NONE)
    low, high = content["lower"], content["upper"]
    return Cell(f"{content['mean']:.{decimals}f}", f"{low:.{decimals}f} to {high:.{decimals}f}")


def _share(value: float | None, part: int, whole: int) -> Cell:
    return Cell(_number(value, decimals=2), f"{part} of {whole}")


def _number(value: float | None, *, decimals: int = 3) -> str:
    return _NONE if value is None else f"{value:.{decimals}f}"
