"""The exchange computes what its equations say, by fewer operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.exchange import PixelsFromTokens, TokensFromPixels


def random(module: nn.Module) -> nn.Module:
    """No parameter of the module is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return module


def attend_plainly(module: TokensFromPixels, tokens: Tensor, pixels: Tensor) -> Tensor:
    """Keys and values of every pixel, and one window after the other."""
    batch, height, width, _ = tokens.shape
    m = pixels.shape[-1] // width
    queries = module.query(module.norm(tokens))
    found = torch.zeros_like(queries)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                window = pixels[b, :, row * m : (row + 1) * m, column * m : (column + 1) * m]
                key, value = module.key_value(window.flatten(1).T).chunk(2, dim=-1)
                for head in torch.arange(queries.shape[-1]).chunk(module.heads):
                    q = queries[b, row, column, head]
                    shares = torch.softmax(key[:, head] @ q / len(head) ** 0.5, dim=0)
                    found[b, row, column, head] = shares @ value[:, head]
    return tokens + module.out(found)


@pytest.mark.parametrize("m", [8, 4, 2, 1])
def test_a_token_finds_what_attention_to_its_pixels_finds(m: int) -> None:
    module = random(TokensFromPixels(6, 16)).double()
    generator = torch.Generator().manual_seed(m)
    tokens = torch.randn(2, 2, 3, 6, generator=generator, dtype=torch.double)
    pixels = torch.randn(2, 16, 2 * m, 3 * m, generator=generator, dtype=torch.double)
    assert module.heads == 8  # type: ignore[comparison-overlap]
    expected = attend_plainly(module, tokens, pixels)  # type: ignore[arg-type]
    torch.testing.assert_close(module(tokens, pixels), expected, rtol=1e-12, atol=1e-12)


def test_every_parameter_of_the_attention_gets_a_gradient() -> None:
    module = random(TokensFromPixels(6, 16))
    module(torch.randn(1, 2, 2, 6), torch.randn(1, 16, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_pixels_are_scaled_by_twice_the_gate_and_shifted_by_the_feature() -> None:
    module = random(PixelsFromTokens(6, 4))
    tokens, pixels = torch.randn(1, 2, 3, 6), torch.randn(1, 4, 2, 3)
    gate, feature = module.gate_feature(module.norm(tokens)).permute(0, 3, 1, 2).chunk(2, dim=1)
    expected = 2 * torch.sigmoid(gate) * pixels + feature
    torch.testing.assert_close(module(tokens, pixels), expected)
    assert F.l1_loss(expected, pixels) > 0
