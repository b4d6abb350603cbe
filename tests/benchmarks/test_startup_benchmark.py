"""The table of start-up times is filled from processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import startup


def test_best_and_median_of_every_command_are_shown() -> None:
    figures = {"command": "c", "machine": "m", "runs": 3, "seconds": {"a": [3.0, 1.0, 2.5]}}
    assert "| a | 1.00 | 2.50 |" in startup.to_markdown(figures)


def test_the_turn_before_the_counted_ones_is_left_out() -> None:
    seconds = startup.time_runs({"a": ["-c", "pass"], "b": ["-c", "pass"]}, 2)
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.slow
def test_every_command_is_measured(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("<!-- startup:start -->\n<!-- startup:end -->\n")
    assert startup.main(["--runs", "1", "--docs", str(tmp_path)]) == 0
    assert (
        sum("samcancer" in line or "infer" in line for line in page.read_text().splitlines()) >= 4
    )
    assert (tmp_path / "startup.json").is_file()
