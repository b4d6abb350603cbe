from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import small_config
from memory_store import CLASS_NAMES

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.training.network import build_network

SMALL = ModelConfig(image_size=32, cnn_width=4)


def test_equal_seeds_give_equal_weights_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    states = [build_network(SMALL, CLASS_NAMES, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_missing_encoder_checkpoint_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL, encoder="sam_vit_b", encoder_checkpoint=str(tmp_path / "sam.pth")
    )
    with pytest.raises(InputError, match=r"sam\.pth: no such"):
        build_network(config, CLASS_NAMES)


def test_an_unknown_encoder_is_refused() -> None:
    config = dataclasses.replace(small_config().model, encoder="resnet")
    with pytest.raises(InputError, match="unknown encoder 'resnet'"):
        build_network(config, CLASS_NAMES)
