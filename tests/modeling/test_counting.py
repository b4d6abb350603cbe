"""Counted multiply-adds against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from samcancer.config import ModelConfig
from samcancer.modeling import (
    build_model,
    count_multiply_adds,
    count_multiply_adds_by_part,
    count_parameters,
)
from samcancer.modeling.encoders import ENCODERS, ImageEncoder


def encoder_multiply_adds(name: str, side: int) -> int:
    """Count by hand a ViT whose blocks attend to all ``side`` x ``side`` tokens."""
    shape = ENCODERS[name].vit
    tokens, dim, out = side * side, shape.dim, shape.out_channels
    patches = tokens * dim * 16 * 16
    linear = tokens * dim * dim * (3 + 1 + 2 * shape.mlp_ratio)
    attention = 2 * tokens * tokens * dim
    relative_positions = 2 * tokens * side * dim
    neck = tokens * (dim * out + 9 * out * out)
    return patches + shape.depth * (linear + attention + relative_positions) + neck


@pytest.mark.parametrize(
    ("name", "device"), [("vit_tiny", "cpu"), ("vit_tiny", "meta"), ("sam_vit_b", "meta")]
)
def test_the_encoder_is_counted_as_by_hand_fused_attention_included(name: str, device: str) -> None:
    with torch.device(device):
        encoder = ImageEncoder(ENCODERS[name].vit, 256)
        images = torch.zeros(1, 1, 256, 256)
    counter = FlopCounterMode(display=False)
    with counter:
        encoder(images)
    assert counter.get_total_flops() == 2 * encoder_multiply_adds(name, 16)


def test_one_16_window_spends_the_46_8_gflop_of_unpadded_attention() -> None:
    padded_tokens, tokens = 28 * 28, 16 * 16
    assert 2 * encoder_multiply_adds("sam_vit_b", 16) == pytest.approx(46.8e9, rel=0.03)
    assert padded_tokens / tokens > 3


class OneConvolution(nn.Module):
    slice_context = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.conv.bias.requires_grad_(False)

    def forward(self, chunk: torch.Tensor) -> torch.Tensor:
        return self.conv(chunk)


def test_a_convolution_is_counted_per_slice() -> None:
    assert count_multiply_adds(OneConvolution(), 16) == 16 * 16 * 3 * 5 * 9


def test_trained_and_frozen_parameters_are_told_apart() -> None:
    assert count_parameters(OneConvolution()) == (5 * 3 * 9, 5)


@pytest.mark.parametrize("encoder", ["vit_tiny", "small_sam"])
def test_the_parts_of_the_network_add_up(encoder: str) -> None:
    model = build_model(ModelConfig(encoder=encoder, image_size=48, cnn_width=4), ["a", "b"])
    parts = count_multiply_adds_by_part(model, 48)
    assert sum(parts.values()) == count_multiply_adds(model, 48)
    assert [name for name, count in parts.items() if not count] == ["classes"]
