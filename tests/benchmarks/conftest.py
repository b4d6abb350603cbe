from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from workload import Workload

SECTIONS = (
    "engine",
    "roofline",
    "backends",
    "whole_scan",
    "efficiency",
    "overlap",
    "evaluation_speed",
    "scale-index",
    "scale-cohorts",
)

TINY = Workload(encoder="vit_tiny", image_size=32, cnn_width=4, pixels=40, batch=2, threads=1)


@pytest.fixture
def tiny() -> Workload:
    """A network and scans that are measured in a moment."""
    return TINY


@pytest.fixture
def results_page(tmp_path: Path) -> Path:
    """An empty page for results."""
    page = [f"<!-- {name}:start --><!-- {name}:end -->" for name in SECTIONS]
    path = tmp_path / "results.md"
    path.write_text("\n".join(page))
    return path


@pytest.fixture
def tiny_words(tmp_path: Path, results_page: Path) -> list[str]:
    """The same on a command line, with an empty page for its results."""
    assert results_page.exists()
    words = ["--encoder", TINY.encoder, "--image-size", "32", "--cnn-width", "4", "--pixels", "40"]
    return [*words, "--batch", "2", "--threads", "1", "--docs", str(tmp_path)]
