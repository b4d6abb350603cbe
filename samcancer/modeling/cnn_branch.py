"""The CNN branch: a U-shaped network whose first two steps mix neighbouring slices.

    chunk (T+4, B, S, S), target slices N = T * B, slice by slice
    stem    3x3x3 valid in z   -> targets (N, w, S, S), neighbours (T+2, B, w, S/2, S/2)
    down1   pool, 3x3x3 valid  -> (N, 2w, S/2, S/2)
    down2-4 pool, 3x3          -> (N, 4w, S/4, S/4), (N, 8w, S/8, S/8), (N, 16w, S/16, S/16)
    up1-4   upsample, skip     -> (N, 8w, S/8, S/8), ... (N, w, S, S)

Target t sees chunk[t : t+5], and nothing but the two z-valid steps mixes slices ([SC], where z is
collapsed at the first down). A 3x3x3 convolution valid in z is run as a 2D one over three stacked
slices: the same sum, several times faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
            Down(fine if i else SLICE_TAPS * fine, coarse, pool=i > 0)
            for i, (fine, coarse) in enumerate(pairwise(self.channels))
        )
        self.ups = nn.ModuleList(
            Up(coarse, fine) for coarse, fine in pairwise(reversed(self.channels))
        )

    def decode(self, x: Tensor, skips: Sequence[Tensor], *, first: int = 0) -> list[Tensor]:
        """Go up by one stage a skip and return the features of each stage.

        Args:
            x: What the first of these stages takes: the deepest features, or an up stage's.
            skips: From coarse to fine.
            first: Number of the first stage, 0 to 3.
        """
        features = []
        for up, skip in zip(self.ups[first : first + len(skips)], skips, strict=True):
            x = up(x, skip)
            features.append(x)
        return features


class Stem(nn.Module):
    """First z-valid step: target slices at full resolution, their neighbours at half of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.target = ConvNormAct(SLICE_TAPS, width)
        self.refine = ConvNormAct(width, width, residual=True)
        self.neighbour = ConvNormAct(SLICE_TAPS, width, stride=2)

    def forward(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Mix neighbouring slices once.

        Args:
            chunk: (T+4, B, S, S).

        Returns:
            The target slices (N, w, S, S), and what down1 takes: each target slice between its two
            neighbours (N, 3w, S/2, S/2).
        """
        depth, batch = chunk.shape[:2]
        taps = torch.stack([chunk[i : depth - 2 + i] for i in range(SLICE_TAPS)], dim=2)
        target: Tensor = self.refine(self.target(channels_last(taps[1:-1].flatten(0, 1))))
        neighbours = self.neighbour(channels_last(taps.flatten(0, 1))).split(batch)
        below, above = torch.cat(neighbours[:-2]), torch.cat(neighbours[2:])
        return target, torch.cat([below, F.max_pool2d(target, 2), above], dim=1)


class Down(nn.Module):
    """Halve the resolution, unless the stem did, then two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool = True) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = ConvNormAct(in_channels, out_channels)
        self.conv2 = ConvNormAct(out_channels, out_channels, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H/2, W/2)."""
        y: Tensor = self.conv2(self.conv1(F.max_pool2d(x, 2) if self.pool else x))
        return y


class Up(nn.Module):
    """Double the resolution, add the skip, then two residual convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.conv1 = ConvNormAct(out_channels, out_channels, residual=True)
        self.conv2 = ConvNormAct(out_channels, out_channels, residual=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, H, W), (N, D, 2H, 2W) -> (N, D, 2H, 2W)."""
        y: Tensor = self.conv2(self.conv1(self.upsample(x) + skip))
        return y


def channels_last(x: Tensor) -> Tensor:
    """The same tensor with channels innermost in memory, which CPU kernels run fastest on."""
    return x.contiguous(memory_format=torch.channels_last)
