"""The blocks of the CNN branch give the same in training's arithmetic and in inference's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samcancer.modeling.layers import ConvNormAct


def block(*, residual: bool, stride: int = 1) -> ConvNormAct:
    """A block in evaluation mode whose norm has seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ConvNormAct(6, 6 if residual else 4, residual=residual, stride=stride)
        for parameter in made.norm.parameters():
            nn.init.normal_(parameter)
        made.norm.running_mean.normal_()  # type: ignore[union-attr]
        made.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return made.eval()


@pytest.mark.parametrize(("residual", "stride"), [(True, 1), (False, 1), (False, 2)])
def test_a_folded_norm_gives_what_the_norm_gives(residual: bool, stride: int) -> None:
    made = block(residual=residual, stride=stride)
    x = torch.randn(2, 6, 9, 7, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    expected = made(x).detach()
    with torch.inference_mode():
        found = made(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_channels_stay_last_in_memory() -> None:
    x = torch.randn(2, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = block(residual=True).to(memory_format=torch.channels_last)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
