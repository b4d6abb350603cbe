"""Tables and choices from an evaluation's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samcancer.errors import InputError
from samcancer.report.page import Table
from samcancer.report.patients import choose_patients
from samcancer.report.results import (
    Scores,
    case_table,
    mean_dice,
    patient_table,
    read_scores,
    score_figure,
    score_table,
)

COLUMNS = (
    "case,class,annotated,missing,dice,nsd,iou,reference_ml,prediction_ml,reference_lesions,"
    "detected_lesions,predicted_lesions,true_predicted_lesions,unverified_ml,unverified_lesions"
)


def mean(value: float | None, n: int) -> dict[str, Any]:
    return {"mean": value, "lower": value, "upper": value, "n": n}


def write_evaluation(folder: Path, rows: list[tuple[str, str, str, float, float]]) -> Path:
    """Write rows of (case, class, dice, reference ml, prediction ml)."""
    folder.mkdir()
    lines = [
        f"{case},{name},1,0,{dice},,,{reference},{prediction},{int(reference > 0)},0,"
        f"{int(prediction > 0)},0,0,0"
        for case, name, dice, reference, prediction in rows
    ]
    unknown = "other,kidney_lesion,0,0,,,,0,0,0,0,0,0,3.5,1"
    (folder / "per_case.csv").write_text("\n".join([COLUMNS, *lines, unknown]) + "\n")
    names = dict.fromkeys(name for _, name, *_ in rows)
    one_class = {
        "dice": mean(0.25, 4),
        "nsd": mean(0.2, 4),
        "dice_where_present": mean(0.5, 2),
        "nsd_where_present": mean(0.4, 2),
    }
    lesions = {"detected": 3, "reference_lesions": 4, "recall": 0.75}
    lesions |= {"true": 0, "predicted_lesions": 0, "precision": None}
    summary = {
        "protocol": "nnunet",
        "tolerance_mm": 2.0,
        "interval": "95% percentile bootstrap over cases, 2000 resamples",
        "lesion_matching": "covered by at least 10% of its volume",
        "classes": dict.fromkeys(names, one_class),
        "lesions": {name: {"all": lesions} for name in names},
        "patients": {"any lesion": {"sensitivity": 0.5, "specificity": None}},
        "healthy": {
            "scans": 2,
            "missing_predictions": 0,
            "with_predicted_lesion": 1,
            "false_positive_rate": 0.5,
            "false_positive_ml": mean(1.25, 2),
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    rows = [
        ("p1", "liver_lesion", "0.1", 5.0, 2.0),
        ("p2", "liver_lesion", "0.9", 5.0, 2.0),
        ("p3", "liver_lesion", "0.5", 5.0, 2.0),
        ("p4", "liver_lesion", "", 0.0, 0.0),
        ("p5", "liver_lesion", "0.0", 0.0, 4.0),
    ]
    return read_scores(write_evaluation(tmp_path / "scores", rows))


def texts(table: Table) -> list[list[str]]:
    return [[f"{cell.text}|{cell.below}" for cell in row] for row in table.rows]


def test_each_class_has_a_row_per_arm_with_its_interval(scores: Scores) -> None:
    table = score_table({"a": scores, "b": scores}, {"liver_lesion": "liver lesion"})
    assert [row[:2] for row in texts(table)] == [["liver lesion|", "a|"], ["|", "b|"]]
    assert texts(table)[0][3] == "0.500|0.500 to 0.500"


def test_a_protocol_with_a_tolerance_for_each_class_names_none(scores: Scores) -> None:
    assert "NSD 2 mm" in score_table({"a": scores}, {}).header
    several = Scores({**scores.summary, "tolerance_mm": None}, scores.cases)
    assert "NSD" in score_table({"a": several}, {}).header


def test_a_case_whose_name_was_guarded_has_its_own_name(tmp_path: Path) -> None:
    rows = [("'-7", "liver_lesion", "0.1", 5.0, 2.0)]
    assert read_scores(write_evaluation(tmp_path / "scores", rows)).case_ids == ("-7",)


def test_a_share_of_nothing_is_a_dash_with_its_counts(scores: Scores) -> None:
    row = texts(score_table({"a": scores}, {}))[0]
    assert row[-2:] == ["0.75|3 of 4", "–|0 of 0"]


def test_healthy_scans_show_their_false_positives(scores: Scores) -> None:
    assert texts(patient_table({"a": scores})) == [
        ["a|", "2|", "0.50|1 of 2", "1.25|1.25 to 1.25", "0.500|", "–|"]
    ]


def test_classes_that_a_case_does_not_annotate_are_no_scores(scores: Scores) -> None:
    assert "other" not in scores.case_ids


def test_a_healthy_case_has_no_mean(scores: Scores) -> None:
    assert mean_dice("p5", scores) is None
    assert mean_dice("p2", scores) == 0.9


def test_a_patient_without_anything_has_no_table(scores: Scores) -> None:
    assert case_table("p4", {"a": scores}, {}) is None
    assert case_table("p5", {"a": scores}, {}) is not None


def test_patients_shown_go_from_worst_to_best_then_the_falsest_healthy_one(scores: Scores) -> None:
    assert choose_patients(scores, count=4) == ["p1", "p3", "p2", "p5"]
    assert choose_patients(scores, count=3) == ["p1", "p2", "p5"]
    assert choose_patients(scores, count=1) == ["p1"]


def test_the_chart_has_one_dot_per_class_and_arm(scores: Scores) -> None:
    figure = score_figure({"a": scores, "b": scores}, {})
    assert figure.chart_svg.count("<circle") == 2


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"summary\.json: no such file"):
        read_scores(tmp_path)


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "scores", [("p1", "liver_lesion", "1", 1.0, 1.0)])
    (folder / "per_case.csv").write_text("case,class\np1,liver_lesion\n")
    with pytest.raises(InputError, match=r"per_case\.csv: not the table of an evaluation"):
        read_scores(folder)
