"""The examples of docs/extend.md work as they stand there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from samcancer.config import UniversalConfig
from samcancer.modeling import backbones, heads
from samcancer.modeling.build import build_universal

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


def example(path: str) -> types.ModuleType:
    """Return the page's source of a file, run as a module."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    source = dict(blocks)[path]
    module = types.ModuleType(path.removesuffix(".py").replace("/", "."))
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def test_the_backbone_of_the_page_is_a_file_and_a_registry_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = example("samcancer/modeling/backbones/two_layers.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(backbones.BACKBONES, "two_layers", "two_layers.TwoLayers")
    config = UniversalConfig(backbone="two_layers", width=4, head="onehot", patch_size=(8, 8, 8))
    logits = build_universal(config, ["a", "b"])(torch.rand(1, 8, 8, 8)).mask_logits
    assert logits.shape == (1, 8, 2, 8, 8)


def test_the_prompt_kind_of_the_page_is_a_file_and_a_registry_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = example("samcancer/modeling/heads/random_vectors.py")
    monkeypatch.setitem(heads.HEADS, "random", heads.HeadSpec(module.random_head))
    config = UniversalConfig(backbone="segresnet", width=8, head="random", patch_size=(8, 16, 16))
    network = build_universal(config, ["a", "b", "c"])
    assert network(torch.rand(1, 8, 16, 16)).mask_logits.shape == (1, 8, 3, 16, 16)
    assert "head.vectors" in network.state_dict()
