"""The challenges' protocol on a scan, and on any other command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import efficiency
import pytest


def test_a_scan_is_measured_and_stands_above_the_papers(
    tmp_path: Path, tiny_words: list[str]
) -> None:
    assert efficiency.main([*tiny_words, "--slices", "3"]) == 0
    (scan,) = json.loads((tmp_path / "efficiency.json").read_text())["scans"]
    assert scan["area_mib_s"] <= scan["peak_mib"] * scan["wall_s"]
    page = (tmp_path / "results.md").read_text()
    assert page.index("| ours, 40 x 40 x 3, cpu |") < page.index("| SAMCancer paper, GPU | 18.05 |")


def test_any_command_is_watched_and_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--docs", str(tmp_path), "--", sys.executable, "-c", "import time; time.sleep(0.2)"]
    assert efficiency.main(words) == 0
    assert "MiB s" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert efficiency.main(["--", sys.executable, "-c", "raise SystemExit(1)"]) == 2
    assert "exit status 1" in capsys.readouterr().err
