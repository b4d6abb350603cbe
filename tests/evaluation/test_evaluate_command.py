from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import WriteLabels

from samcancer.commands import run_verb
from samcancer.evaluation.tables import CASE_COLUMNS, LESION_COLUMNS


@pytest.fixture(autouse=True)
def _quiet_logging() -> None:
    """Keep the command from adding handlers to the root logger of the test run."""
    logging.getLogger().addHandler(logging.NullHandler())


def box(start: int, length: int = 8) -> np.ndarray:
    values = np.zeros((8, 20, 30), dtype=np.uint8)
    values[2:6, 5:15, start : start + length] = 1
    return values


def evaluate(folder: Path, *options: str) -> int:
    return run_verb(
        "evaluate",
        [
            *("--reference", str(folder / "reference"), "--prediction", str(folder / "prediction")),
            *("--output", str(folder / "scores"), "--quiet", "--labels", "lesion=1", *options),
        ],
    )


@pytest.fixture
def pair(write_labels: WriteLabels, tmp_path: Path) -> Path:
    write_labels("reference/a.nii.gz", box(4))
    write_labels("prediction/a.nii.gz", box(6))
    return tmp_path


@pytest.mark.parametrize("options", [("--protocol", "flare24"), ("--protocol", "nnunet"), ()])
def test_tables_are_written_and_printed(
    options: tuple[str, ...], pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(pair, *options) == 0
    with (pair / "scores" / "per_case.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert tuple(row) == CASE_COLUMNS
    assert (row["case"], row["class"]) == ("a", "lesion")
    assert float(row["dice"]) == pytest.approx(6 / 8)
    assert float(row["reference_ml"]) == pytest.approx(320 * 0.0028)
    with (pair / "scores" / "lesions.csv").open() as stream:
        lesions = list(csv.DictReader(stream))
    assert tuple(lesions[0]) == LESION_COLUMNS
    assert [x["side"] for x in lesions] == ["reference", "prediction"]
    assert (float(lesions[0]["slice"]), float(lesions[0]["column"])) == (3.5, 7.5)
    summary = json.loads((pair / "scores" / "summary.json").read_text())
    assert summary["classes"]["lesion"]["dice"]["mean"] == pytest.approx(0.75)
    printed = capsys.readouterr().out
    assert "0.750" in printed
    assert "lesion" in printed


def test_bounds_are_printed_where_labels_are_partial(
    pair: Path,
    write_labels: WriteLabels,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # wide enough for a row on one line
    write_labels("reference/b.nii.gz", box(4))
    write_labels("prediction/b.nii.gz", box(4))
    (pair / "annotated.csv").write_text("case,classes\na,lesion\nb,\n")
    assert evaluate(pair, "--annotated", str(pair / "annotated.csv")) == 0
    printed = capsys.readouterr().out
    # one true lesion, one unverified
    assert "partial labels: measured [pessimistic, optimistic]" in printed
    assert "1.000 [0.500, 1.000]" in printed
    summary = json.loads((pair / "scores" / "summary.json").read_text())
    assert summary["bounds"]["classes"]["lesion"]["precision"] == {
        "measured": 1.0,
        "pessimistic": 0.5,
        "optimistic": 1.0,
    }


def test_flare23_prints_its_overall_figures(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(pair, "--protocol", "flare23") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "flare23, 0 of 13 organs: DSC -, NSD -; tumor: DSC 0.750" in printed


def test_a_tolerance_for_flare23_is_refused(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(pair, "--protocol", "flare23", "--tolerance", "3") == 2
    assert "has a tolerance for each class, got 3 mm" in capsys.readouterr().err


def test_a_failing_case_gives_status_1_and_the_others_are_scored(
    pair: Path, write_labels: WriteLabels, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels("reference/b.nii.gz", box(4))
    (pair / "prediction" / "b.nii.gz").write_bytes(b"damaged")
    assert evaluate(pair) == 1
    summary = json.loads((pair / "scores" / "summary.json").read_text())
    assert list(summary["failures"]) == ["b"]
    assert summary["cases"] == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {pair / 'prediction' / 'b.nii.gz'}: ")


def test_no_case_at_all_is_bad_input(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pair / "prediction" / "a.nii.gz").write_bytes(b"damaged")
    assert evaluate(pair) == 2
    assert "no case could be scored" in capsys.readouterr().err
    assert not (pair / "scores" / "summary.json").exists()


def test_the_protocol_of_an_unknown_name_is_refused(pair: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate(pair, "--protocol", "flare22")
    assert stop.value.code == 2


def test_a_tolerance_of_zero_is_refused(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(pair, "--tolerance", "0") == 2
    assert "--tolerance must be above 0 mm" in capsys.readouterr().err


def test_evaluation_does_not_load_torch() -> None:
    code = (
        "import sys, samcancer.evaluation.tables, samcancer.evaluation.summary;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
