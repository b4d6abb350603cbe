"""Exchange between the ViT's tokens and the CNN's pixels after each stage ([SC]).

    tokens (B, h, w, D), pixels (B, C, m*h, m*w)   with m = 8, 4, 2, 1 after stages 1 to 4
    (of TinyViT tokens and pixels from 1:1 to 4:1, where pixels are interpolated to the tokens)
    CNN -> tokens: each token queries its own m x m pixels     -> tokens (B, h, w, D)
    tokens -> CNN: a gate and a feature vector for every pixel -> pixels (B, C, m*h, m*w)

Both ways end in projections that start at zero, so a pretrained ViT starts unperturbed.

A token has one query for its m x m pixels. So the projections of keys and values are moved from the
pixels to the token, which is the same by associativity, q . (W x) = (W^T q) . x, for a fraction of
the work.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_HEADS = 8
"""Most attention heads of the local attention."""


class TokensFromPixels(nn.Module):
    """Each token attends to the pixels it covers, and adds what it finds."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, _MAX_HEADS)
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Tokens (B, h, w, D), pixels (B, C, m*h, m*w) -> tokens (B, h, w, D)."""
        batch, height, width, _ = tokens.shape
        if pixels.shape[-1] < width:
            pixels = F.interpolate(pixels, size=(height, width), mode="bilinear")
        m, channels = pixels.shape[-1] // width, pixels.shape[1]
        x = pixels.permute(0, 2, 3, 1).reshape(batch, height, m, width, m, channels)
        x = x.transpose(2, 3).reshape(-1, m * m, channels)
        q = self.query(self.norm(tokens)).view(len(x), self.heads, -1)
        found = self._attend(q / math.sqrt(q.shape[-1]), x)
        return tokens + self.out(found.reshape(batch, height, width, channels))  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, x: Tensor) -> Tensor:
        """Scaled queries (n, heads, d), pixels (n, m * m, C) -> what each finds (n, heads, d)."""
        shape = (2, self.heads, -1)
        key, value = self.key_value.weight.view(*shape, x.shape[-1])
        key_bias, value_bias = self.key_value.bias.view(shape)
        asked = torch.einsum("nhd,hdc->nhc", q, key)
        logits = asked @ x.transpose(1, 2) + torch.einsum("nhd,hd->nh", q, key_bias).unsqueeze(-1)
        seen = torch.softmax(logits, dim=-1) @ x
        found: Tensor = torch.einsum("nhc,hdc->nhd", seen, value) + value_bias
        return found


class PixelsFromTokens(nn.Module):
    """Every pixel is scaled by a gate and shifted by a feature, both read off the tokens."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate_feature = nn.Linear(dim, 2 * channels)
        nn.init.zeros_(self.gate_feature.weight)
        nn.init.zeros_(self.gate_feature.bias)

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Tokens (B, h, w, D), pixels (B, C, m*h, m*w) -> pixels (B, C, m*h, m*w)."""
        both = self.gate_feature(self.norm(tokens)).permute(0, 3, 1, 2)
        if pixels.shape[-1] < both.shape[-1]:
            both = F.adaptive_avg_pool2d(both, (pixels.shape[-2], pixels.shape[-1]))
        elif pixels.shape[-2:] != both.shape[-2:]:
            both = F.interpolate(both, size=pixels.shape[-2:], mode="bilinear")
        gate, feature = both.chunk(2, dim=1)
        return torch.addcmul(feature, pixels, torch.sigmoid(gate), value=2.0)


class Exchange(nn.Module):
    """One meeting of the two branches."""

    def __init__(self, dim: int, channels: int, *, both_ways: bool) -> None:
        super().__init__()
        self.to_tokens = TokensFromPixels(dim, channels) if both_ways else None
        self.to_pixels = PixelsFromTokens(dim, channels)

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, h, w, D), pixels (B, C, m*h, m*w) -> both, updated."""
        if self.to_tokens is not None:
            tokens = self.to_tokens(tokens, pixels)
        return tokens, self.to_pixels(tokens, pixels)
