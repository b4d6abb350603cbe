"""The CNN branch: a U-shaped network whose first two steps mix neighbouring slices.

    chunk (B, T+4, S, S)
    stem    3x3x3 valid in z   -> (B, T+2, w, S, S), centre slices refined -> (B*T, w, S, S)
    down1   pool, 3x3x3 valid  -> (B*T, 2w, S/2, S/2)
    down2-4 pool, 3x3          -> (B*T, 4w, S/4, S/4), (B*T, 8w, S/8, S/8), (B*T, 16w, S/16, S/16)
    up1-4   upsample, skip     -> (B*T, w, S, S)

T slices share one chunk: slice t sees chunk[t : t+5], and nothing but the two z-valid steps mixes
slices ([SC] section 2.2, where z is collapsed at the first down). A 3x3x3 convolution valid in z
is run as a 2D one over three stacked slices: the same sum, several times faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.layers import ConvNormAct

STAGE_FACTORS = (1, 2, 4, 8, 16)
"""Channels of the stem and the four down stages as multiples of the width."""

SLICE_TAPS = 3
"""Slices under one z-valid convolution."""


class CnnBranch(nn.Module):
    """Stem, four down stages and four up stages; the caller runs them one by one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = tuple(width * factor for factor in STAGE_FACTORS)
        self.stem = Stem(width)
        self.downs = nn.ModuleList(
            Down(taps * fine, coarse)
            for taps, fine, coarse in zip(
                (SLICE_TAPS, 1, 1, 1), self.channels[:-1], self.channels[1:], strict=True
            )
        )
        self.ups = nn.ModuleList(
            Up(coarse, fine)
            for coarse, fine in zip(self.channels[:0:-1], self.channels[-2::-1], strict=True)
        )

    def decode(self, skips: Sequence[Tensor]) -> Tensor:
        """Skips from full resolution to the deepest -> (B*T, w, S, S)."""
        x = skips[-1]
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return x


class Stem(nn.Module):
    """First z-valid step, at full resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = ConvNormAct(SLICE_TAPS, width)
        self.refine = ConvNormAct(width, width, residual=True)

    def forward(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Mix neighbouring slices once.

        Args:
            chunk: (B, T+4, S, S).

        Returns:
            The refined target slices (B*T, w, S, S), and what down1 takes: each target slice
            between its two neighbours (B*T, 3w, S, S).
        """
        batch, depth, height, width = chunk.shape
        taps = torch.stack([chunk[:, i : depth - 2 + i] for i in range(SLICE_TAPS)], dim=2)
        mixed = self.mix(channels_last(taps.flatten(0, 1)))
        slices = mixed.unflatten(0, (batch, depth - 2))
        below, centre, above = (slices[:, i : depth - 4 + i].flatten(0, 1) for i in range(3))
        refined: Tensor = self.refine(channels_last(centre))
        return refined, channels_last(torch.cat([below, refined, above], dim=1))


class Down(nn.Module):
    """Halve the resolution, then two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels)
        self.conv2 = ConvNormAct(out_channels, out_channels, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, D, H/2, W/2)."""
        y: Tensor = self.conv2(self.conv1(F.max_pool2d(x, 2)))
        return y


class Up(nn.Module):
    """Double the resolution, join the skip, then two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.conv1 = ConvNormAct(2 * out_channels, out_channels)
        self.conv2 = ConvNormAct(out_channels, out_channels, residual=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B*T, C, H, W), (B*T, D, 2H, 2W) -> (B*T, D, 2H, 2W)."""
        y: Tensor = self.conv2(self.conv1(torch.cat([self.upsample(x), skip], dim=1)))
        return y


def channels_last(x: Tensor) -> Tensor:
    """The same tensor with channels innermost in memory, which CPU kernels run fastest on."""
    return x.contiguous(memory_format=torch.channels_last)
