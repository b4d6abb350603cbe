from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import WriteLabels, fake_result

from samcancer.commands import run_verb
from samcancer.evaluation.cases import Evaluated
from samcancer.evaluation.comparison import compare
from samcancer.evaluation.patients import ANY_LESION
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.tables import CASE_COLUMNS, COMPARISON_COLUMNS

LIVER, KIDNEY = "liver_lesion", "kidney_lesion"


@pytest.fixture(autouse=True)
def _quiet_logging() -> None:
    """Keep the command from adding handlers to the root logger of the test run."""
    logging.getLogger().addHandler(logging.NullHandler())


def evaluated(*results: ClassResult, missing: tuple[str, ...] = ()) -> Evaluated:
    return Evaluated(results, missing, {}, ())


def test_cases_are_paired_by_id_and_not_by_order() -> None:
    first = evaluated(fake_result("a", dice=0.9, nsd=0.8), fake_result("b", dice=0.5, nsd=0.5))
    second = evaluated(
        fake_result("b", dice=0.6, nsd=0.5), fake_result("c", dice=0.1), fake_result("a", dice=0.7)
    )
    content = compare(first, second)
    dice = content["classes"][LIVER]["dice"]
    assert content["cases"] == 2
    assert (dice["n"], dice["better"], dice["equal"], dice["worse"]) == (2, 1, 0, 1)
    assert dice["mean"] == pytest.approx((0.2 - 0.1) / 2)
    assert (dice["first"], dice["second"]) == (pytest.approx(0.7), pytest.approx(0.65))
    assert content["classes"][LIVER]["nsd"]["n"] == 1  # a has none by the second


def test_recall_is_over_cases_with_a_lesion_and_false_lesions_over_all() -> None:
    first = evaluated(
        fake_result("ill", detected=2, missed=2, true=2, false=1),
        fake_result("healthy", false=1),
    )
    second = evaluated(
        fake_result("ill", detected=1, missed=3, true=1), fake_result("healthy", false=3)
    )
    table = compare(first, second)["classes"][LIVER]
    assert (table["lesion_recall"]["n"], table["lesion_recall"]["mean"]) == (1, 0.25)
    false = table["false_positive_lesions"]
    assert (false["n"], false["mean"]) == (2, (1 - 2) / 2)
    # fewer are better: in the healthy case the first has fewer
    assert (false["better"], false["worse"]) == (1, 1)


def test_a_missing_prediction_loses_and_has_no_count_of_false_lesions() -> None:
    first = evaluated(fake_result("a", dice=0.4, nsd=0.3, detected=1, true=1, false=2))
    second = evaluated(fake_result("a", dice=0.0, nsd=0.0, missed=1, missing=True), missing=("a",))
    content = compare(first, second)
    assert content["missing_predictions"] == {"prediction": [], "compared": ["a"]}
    table = content["classes"][LIVER]
    assert (table["dice"]["better"], table["lesion_recall"]["better"]) == (1, 1)
    assert table["false_positive_lesions"]["n"] == 0


def test_what_a_case_does_not_annotate_is_not_compared() -> None:
    first = evaluated(
        fake_result("a", dice=0.5), fake_result("a", KIDNEY, annotated=False, unverified=4)
    )
    second = evaluated(fake_result("a", dice=0.5), fake_result("a", KIDNEY, annotated=False))
    assert list(compare(first, second)["classes"]) == [LIVER, ANY_LESION]


def test_any_lesion_pools_the_classes_of_a_case() -> None:
    first = evaluated(
        fake_result("a", LIVER, detected=1, false=1), fake_result("a", KIDNEY, missed=3, false=2)
    )
    second = evaluated(fake_result("a", LIVER, missed=1), fake_result("a", KIDNEY, missed=3))
    table = compare(first, second)["classes"][ANY_LESION]
    assert table["lesion_recall"]["mean"] == 1 / 4
    assert table["false_positive_lesions"]["mean"] == 3.0


def test_a_patients_scans_make_one_pair() -> None:
    first = evaluated(*(fake_result(c, dice=d) for c, d in (("a1", 0.9), ("a2", 0.5), ("b", 0.4))))
    second = evaluated(*(fake_result(c, dice=d) for c, d in (("a1", 0.5), ("a2", 0.7), ("b", 0.5))))
    content = compare(first, second, patients={"a1": "a", "a2": "a", "b": "b"})
    dice = content["classes"][LIVER]["dice"]
    assert (dice["n"], dice["better"], dice["worse"]) == (2, 1, 1)
    assert dice["mean"] == pytest.approx((0.1 - 0.1) / 2)
    assert "over patients" in content["interval"]


def test_the_other_way_round_gives_the_opposite() -> None:
    random = np.random.default_rng(3)
    sides = [
        evaluated(*(fake_result(str(i), dice=float(v)) for i, v in enumerate(random.random(12))))
        for _ in range(2)
    ]
    there, back = (compare(a, b)["classes"][LIVER]["dice"] for a, b in (sides, sides[::-1]))
    assert there["mean"] == pytest.approx(-back["mean"])
    assert (there["lower"], there["upper"]) == pytest.approx((-back["upper"], -back["lower"]))
    assert there["p_value"] == back["p_value"]
    assert there["better"] == back["worse"]


def box(start: int, value: int = 1) -> np.ndarray:
    values = np.zeros((8, 20, 40), dtype=np.uint8)
    values[2:6, 5:15, start : start + 8] = value
    return values


def run(folder: Path, *options: str) -> int:
    folders = [f"--{name}={folder / name}" for name in ("reference", "prediction")]
    words = [*folders, f"--compare={folder / 'other'}", f"--output={folder / 'scores'}"]
    return run_verb("evaluate", [*words, "--quiet", "--labels", "lesion=1", *options])


@pytest.fixture
def three(write_labels: WriteLabels, tmp_path: Path) -> Path:
    for name, (own, other) in {"a": (4, 8), "-b": (5, 4), "c": (6, 20)}.items():
        write_labels(f"reference/{name}.nii.gz", box(4))
        write_labels(f"prediction/{name}.nii.gz", box(own))
        write_labels(f"other/{name}.nii.gz", box(other))
    return tmp_path


def test_the_command_compares_two_folders(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(three) == 0
    content = json.loads((three / "scores" / "comparison.json").read_text())
    # DSC 1, 7/8, 3/4 less 1/2, 1, 0
    dice = content["classes"]["lesion"]["dice"]
    assert dice["mean"] == pytest.approx((1 / 2 - 1 / 8 + 3 / 4) / 3)
    assert (dice["better"], dice["worse"]) == (2, 1)
    with (three / "scores" / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COMPARISON_COLUMNS
    (row,) = (r for r in rows if (r["class"], r["figure"]) == ("lesion", "dice"))
    assert float(row["mean"]) == dice["mean"]
    assert float(row["p_value"]) == dice["p_value"]
    assert "prediction less compared" in capsys.readouterr().out


def test_both_folders_scores_are_written_with_guarded_names(three: Path) -> None:
    assert run(three) == 0
    for name, expected in {"per_case": 7 / 8, "per_case_compared": 1.0}.items():
        with (three / "scores" / f"{name}.csv").open() as stream:
            rows = {row["case"]: row for row in csv.DictReader(stream)}
        assert tuple(rows["a"]) == CASE_COLUMNS
        assert set(rows) == {"'-b", "a", "c"}
        assert float(rows["'-b"]["dice"]) == expected
    with (three / "scores" / "lesions.csv").open() as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"'-b", "a", "c"}


def test_a_failure_in_the_compared_folder_gives_status_1(three: Path) -> None:
    (three / "other" / "c.nii.gz").write_bytes(b"damaged")
    assert run(three) == 1
    content = json.loads((three / "scores" / "comparison.json").read_text())
    assert (content["cases"], list(content["failures"])) == (2, ["c"])
    assert json.loads((three / "scores" / "summary.json").read_text())["failures"] == {}


def test_the_command_takes_patients(three: Path) -> None:
    (three / "patients.csv").write_text("case,patient\na,1\n-b,1\nc,2\n")
    assert run(three, f"--patients={three / 'patients.csv'}") == 0
    content = json.loads((three / "scores" / "comparison.json").read_text())
    assert content["classes"]["lesion"]["dice"]["n"] == 2
    summary = json.loads((three / "scores" / "summary.json").read_text())
    assert summary["patients"]["lesion"]["with_lesion"] == 2
    assert "over patients" in summary["interval"]


def test_a_case_without_a_patient_is_refused_before_scoring(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three / "patients.csv").write_text("case,patient\na,1\n")
    assert run(three, f"--patients={three / 'patients.csv'}") == 2
    assert "gives the case '-b' no patient" in capsys.readouterr().err
    assert not (three / "scores" / "summary.json").exists()


def test_equal_folders_have_no_difference(three: Path) -> None:
    words = [f"--{name}={three / 'prediction'}" for name in ("prediction", "compare")]
    words += [f"--reference={three / 'reference'}", f"--output={three / 'scores'}"]
    assert run_verb("evaluate", [*words, "--quiet", "--labels", "lesion=1"]) == 0
    content = json.loads((three / "scores" / "comparison.json").read_text())
    for row in content["classes"]["lesion"].values():
        assert (row["mean"], row["equal"], row["p_value"]) == (0.0, row["n"], None)
        assert not math.isnan(row["first"])
