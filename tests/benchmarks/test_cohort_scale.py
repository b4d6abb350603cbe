from __future__ import annotations

import json
from pathlib import Path

import pytest
from cohort_scale import main


@pytest.mark.slow
def test_throughput_is_measured_at_one_and_two_workers_and_published(results_page: Path) -> None:
    words = ["--part", "prepare", "--cases", "1", "--docs", str(results_page.parent)]
    assert main(words) == 0
    figures = json.loads((results_page.parent / "cohort_scale.json").read_text())
    one, two = figures["prepare"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["cases"] == two["cases"] > 1
    assert one["efficiency"] == pytest.approx(1)
    assert two["efficiency"] == pytest.approx(two["cases_per_minute"] / one["cases_per_minute"] / 2)
    assert "CPU s/case" in results_page.read_text()


def test_no_case_is_refused(results_page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "0", "--docs", str(results_page.parent)]) == 2
    assert "--cases must be at least 1, got 0" in capsys.readouterr().err
