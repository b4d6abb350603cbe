"""The comparison of whole scans: ratios to ours, and what is left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import whole_scan
from workload import Workload

OURS = {"system": "ours", "title": "ours, sam_vit_b", "seconds": 60.0, "peak_mib": 1500.0}
NNUNET = {
    "system": "nnunet",
    "title": "nnU-Net",
    "seconds": 900.0,
    "peak_mib": 3000.0,
    "patches": 90,
    "timed": 3,
}
FIGURES = {"command": "c", "machine": "m", "workload": "w", "scan": "512 x 512 x 100"}


def test_ours_runs_whole_and_a_missing_system_is_left_out(
    tmp_path: Path,
    tiny_words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = whole_scan.SYSTEMS["nnunet"]._replace(package="no_such_package")
    monkeypatch.setitem(whole_scan.SYSTEMS, "nnunet", missing)
    assert whole_scan.main([*tiny_words, "--slices", "3", "--systems", "nnunet"]) == 0
    assert "left out: nnU-Net v2" in capsys.readouterr().err
    (ours,) = json.loads((tmp_path / "whole_scan.json").read_text())["rows"]
    assert ours["seconds"] > 0
    assert "| ours, vit_tiny | all |" in (tmp_path / "results.md").read_text()


def test_the_patches_left_out_are_added_to_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Workload
) -> None:
    report = {"patches": 90, "timed": 3, "spent_s": 4.0, "all_s": 90.0, "torch": "2"}
    program = tmp_path / "system.py"
    program.write_text(f"print('progress')\nprint('''{json.dumps(report)}''')\n")
    monkeypatch.setattr(whole_scan, "_COMPARED", program)
    found = whole_scan.measure_other(
        "nnunet", sys.executable, tmp_path / "ct.nii.gz", patches=3, threads=tiny.threads
    )
    assert 90.0 - 4.0 < found["seconds"] < 90.0 + 4.0
    assert (found["patches"], found["timed"]) == (90, 3)


def test_times_are_relative_to_ours_and_the_target_is_told() -> None:
    markdown = whole_scan.to_markdown({**FIGURES, "rows": [OURS, NNUNET]})
    assert "| ours, sam_vit_b | all | 60 | 1.00 | 1500 |" in markdown
    assert "| nnU-Net | 3 of 90 | 900 | 15.00 | 3000 |" in markdown
    assert "found 15.0, met" in markdown


def test_nothing_is_said_of_a_target_that_was_not_measured() -> None:
    assert "Target" not in whole_scan.to_markdown({**FIGURES, "rows": [OURS]})
