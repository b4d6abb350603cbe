"""The backends of one network are compared on the same chunk."""

from __future__ import annotations

import json
from pathlib import Path

import backends
import pytest
from workload import Workload


def test_pytorch_as_it_is_is_its_own_reference(tmp_path: Path, tiny_words: list[str]) -> None:
    assert backends.main([*tiny_words, "--backends", "eager"]) == 0
    figures = json.loads((tmp_path / "backends.json").read_text())
    assert figures["backends"]["eager"]["difference"] == 0
    assert figures["backends"]["eager"]["slice_s"] > 0
    assert "| eager |" in (tmp_path / "results.md").read_text()


def test_openvino_gives_what_pytorch_gives(tmp_path: Path, tiny: Workload) -> None:
    pytest.importorskip("openvino", reason="needs the extra benchmarks: openvino is not installed")
    backends.measure("eager", tiny, folder=str(tmp_path))
    found = backends.measure("openvino", tiny, folder=str(tmp_path))
    assert found["difference"] < 1e-3
