"""A plain 2D U-Net of MONAI behind the interface of the SAMCancer network, to be compared with it.

It sees the target slice only: of a chunk (B, T+4, S, S) each of the T centre slices is one image.
Presence logits are the largest mask logit of the slice, without a gradient: gating at 0.5 changes
nothing, a calibrated threshold helps this network as it helps ours, and it is trained by Dice and
cross-entropy alone. Source: MONAI's ``UNet`` with two residual units per level, strides of 2 and
batch norm, as in its spleen tutorial; its default instance norm would rescale the logits of every
slice, empty ones too. Its output bias starts at the same lesion prior as ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from samcancer.modeling import NetOutput
from samcancer.modeling.layers import PRIOR_LOGIT

LEVEL_FACTORS = (1, 2, 4, 8, 16)
"""Channels of the levels relative to the first."""
RESIDUAL_UNITS = 2
PARAMETER_TOLERANCE = 0.05
"""Largest relative difference of the trained parameters from the number asked for."""

_WIDTH_RANGE = (2.0, 512.0)
_BISECTIONS = 24


class BaselineUNet(nn.Module):
    """2D U-Net over single slices with the SAMCancer network's forward signature."""

    slice_context = 2

    def __init__(self, class_names: Sequence[str], channels: Sequence[int]) -> None:
        """Build the network.

        Args:
            class_names: One output channel each.
            channels: Of each level, finest first.
        """
        super().__init__()
        self.class_names = tuple(class_names)
        self.channels = tuple(channels)
        self.net = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=len(self.class_names),
            channels=self.channels,
            strides=(2,) * (len(self.channels) - 1),
            num_res_units=RESIDUAL_UNITS,
            norm="batch",
        )
        with torch.no_grad():
            self.output_bias().fill_(PRIOR_LOGIT)

    def output_bias(self) -> nn.Parameter:
        """Return the bias of the last convolution, (K,)."""
        last = [m for m in self.net.modules() if isinstance(m, nn.Conv2d)][-1]
        if last.bias is None or len(last.bias) != len(self.class_names):
            raise RuntimeError("MONAI's UNet no longer ends in a convolution with a bias")
        return last.bias

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> NetOutput:
        """Segment the centre slices.

        Args:
            chunk: (B, T+4, S, S) in [0, 1].
            presence: Not used.

        Returns:
            Mask logits (B, T, K, S, S) and presence logits (B, T, K).
        """
        del presence
        context = self.slice_context
        slices = chunk[:, context : chunk.shape[1] - context]
        batch, targets, size, _ = slices.shape
        logits = self.net(slices.reshape(batch * targets, 1, size, size))
        logits = logits.reshape(batch, targets, len(self.class_names), size, size)
        return NetOutput(logits, logits.detach().amax(dim=(-2, -1)))


def channels_for(parameters: int, *, class_count: int) -> tuple[int, ...]:
    """Return the channels at which the U-Net has about ``parameters`` trained parameters.

    Raises:
        ValueError: When no width comes within ``PARAMETER_TOLERANCE``.
    """
    low, high = _WIDTH_RANGE
    names = tuple(map(str, range(class_count)))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _count(names, _channels(middle)) < parameters:
            low = middle
        else:
            high = middle
    options = {_channels(low), _channels(high)}
    best = min(options, key=lambda channels: abs(_count(names, channels) - parameters))
    found = _count(names, best)
    if abs(found - parameters) > PARAMETER_TOLERANCE * parameters:
        raise ValueError(f"the closest U-Net to {parameters} parameters has {found}")
    return best


def _channels(width: float) -> tuple[int, ...]:
    return tuple(round(width * factor) for factor in LEVEL_FACTORS)


def _count(class_names: Sequence[str], channels: Sequence[int]) -> int:

    with torch.device("meta"):
        net = BaselineUNet(class_names, channels)
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
