"""Layers shared by the parts: a norm over channels and the convolution block of the CNN branch.

    x (B, C, H, W) -> ChannelLayerNorm -> (B, C, H, W)
    x (B, C, H, W) -> ConvNormAct -> (B, D, H, W)

Both keep slices apart at inference, so that a chunk of slices gives what its stacks give one by
one: the first normalises each pixel over its channels, as SAM's neck does, the second uses batch
norm, whose statistics are fixed then. An instance norm over the slices of a chunk would not. In the
CNN branch a norm over channels cancels the grey value of even tissue, which in CT is what tells
tissues apart; with batch norm it learns faster (docs/training.md).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LESION_PRIOR = 0.02
"""Share of a slice that a class covers before anything is learned."""

PRIOR_LOGIT = math.log(LESION_PRIOR / (1 - LESION_PRIOR))
"""What the biases of mask logits start at."""

ABSENT_LOGIT = -30.0
"""Logit of every voxel of a class that is not in a slice (probability 1e-13)."""

NEGATIVE_SLOPE = 0.01
"""Slope of the activation for negative values."""


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of (B, C, H, W); the parameters are named as SAM's."""

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); a view away from the kernel when channels are last."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNormAct(nn.Module):
    """3 x 3 convolution, batch norm, leaky ReLU; optionally residual."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        if residual and (in_channels != out_channels or stride != 1):
            change = f"{in_channels} -> {out_channels} channels, stride {stride}"
            msg = f"a residual block keeps its shape, got {change}"
            raise ValueError(msg)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual = residual
        nn.init.kaiming_normal_(self.conv.weight, a=NEGATIVE_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H / stride, W / stride)."""
        if not self.training and not torch.is_grad_enabled():
            return self._infer(x)
        y: Tensor = self.norm(self.conv(x))
        return F.leaky_relu(x + y if self.residual else y, NEGATIVE_SLOPE)

    def _infer(self, x: Tensor) -> Tensor:
        """The same with the norm's fixed statistics folded into the kernel, and no temporaries."""
        norm: Any = self.norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = self.conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        y = F.conv2d(x, weight, bias, stride=self.conv.stride, padding=self.conv.padding)
        if self.residual:
            y += x
        return F.leaky_relu_(y, NEGATIVE_SLOPE)
