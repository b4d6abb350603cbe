"""The synthetic data is what it says, and the tables hold every way to write and to read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gzip_speed


def test_scan_and_labels_are_the_same_each_time() -> None:
    assert np.array_equal(gzip_speed.scan(2), gzip_speed.scan(2))
    labels = gzip_speed.label_map(2)
    assert labels.shape == gzip_speed.scan(2).shape == (2, 512, 512)
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_every_way_to_write_and_to_read_is_measured(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("<!-- gzip:start -->\n<!-- gzip:end -->\n")
    assert gzip_speed.main(["--slices", "2", "--docs", str(tmp_path)]) == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert sum(line.startswith("| this package |") for line in rows) == 2
    assert sum(line.startswith("| gzip.open") for line in rows) == 4
    assert (tmp_path / "gzip.json").is_file()
