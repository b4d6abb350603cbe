from __future__ import annotations

import json
from pathlib import Path

import pytest
from scale import main


@pytest.mark.slow
def test_throughput_is_measured_at_one_and_two_workers_and_published(results_page: Path) -> None:
    words = ["--part", "prepare", "--patients", "1", "--docs", str(results_page.parent)]
    assert main(words) == 0
    figures = json.loads((results_page.parent / "scale-cohorts.json").read_text())
    one, two = figures["prepare"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["cases"] == two["cases"] > 1
    assert one["efficiency"] == pytest.approx(1)
    assert two["efficiency"] == pytest.approx(two["cases_per_minute"] / one["cases_per_minute"] / 2)
    assert "CPU s/case" in results_page.read_text()


@pytest.mark.parametrize("option", ["--cases", "--patients"])
def test_none_of_them_is_refused(
    option: str, results_page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([option, "0", "--docs", str(results_page.parent)]) == 2
    assert "--cases and --patients must be at least 1" in capsys.readouterr().err
