"""The made systems and stores of tests/training serve here too."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

from samcancer.taxonomy import Taxonomy, load_taxonomy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))


@cache
def _packaged() -> Taxonomy:
    return load_taxonomy()


@pytest.fixture(autouse=True)
def _taxonomy_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing its YAML takes longer than all else that these tests do."""
    monkeypatch.setattr("samcancer.training.checkpoint.load_taxonomy", _packaged)
