"""The table of overlaps: a row for each, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import overlap


def test_every_overlap_is_run_and_published(tmp_path: Path, results_page: Path) -> None:
    words = ["--backbone", "segresnet", "--width", "8", "--patch", "8", "16", "16"]
    words += ["--image-size", "32", "--slices", "5", "--pixels", "40", "--threads", "1"]
    words += ["--overlaps", "0.1", "0.5", "--docs", str(results_page.parent)]
    assert overlap.main(words) == 0
    rows = json.loads((tmp_path / "overlap.json").read_text())["rows"]
    assert [(row["stitch"], row["overlap"]) for row in rows] == [("cpu", 0.1), ("cpu", 0.5)]
    assert "| cpu | 0.1 |" in results_page.read_text()
