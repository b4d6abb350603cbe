"""The made systems and stores of tests/training serve here too."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest

from samcancer.taxonomy import Taxonomy, load_taxonomy

MADE = Path(__file__).resolve().parents[1] / "training"


def _load(name: str) -> None:
    """Make a file importable by name; its folder in sys.path would hide other conftests."""
    spec = importlib.util.spec_from_file_location(name, MADE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


for _name in ("real_store", "fused_systems"):
    if _name not in sys.modules:
        _load(_name)


@cache
def _packaged() -> Taxonomy:
    return load_taxonomy()


@pytest.fixture(autouse=True)
def _taxonomy_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing its YAML takes longer than all else that these tests do."""
    monkeypatch.setattr("samcancer.training.checkpoint.load_taxonomy", _packaged)
