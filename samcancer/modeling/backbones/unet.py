"""MONAI's ``BasicUNet`` (Falk et al. 2019) without its last convolution: U-Net of [UM]."""

from __future__ import annotations

from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from samcancer.modeling.backbones import Features

_LEVEL_FACTORS = (1, 1, 2, 4, 8, 1)
"""Channels of the five levels and of the decoder's end, relative to the width; MONAI's default."""


class UNet(BasicUNet):  # type: ignore[misc]  # monai is not typed
    """Four times halved, convolutions with instance norm."""

    stride = 16

    def __init__(self, width: int) -> None:
        """Build with ``width`` channels at full resolution."""
        features = tuple(width * factor for factor in _LEVEL_FACTORS)
        super().__init__(spatial_dims=3, in_channels=1, out_channels=1, features=features)
        self.final_conv = nn.Identity()
        self.deep_channels, self.channels = features[-2:]
        self.working_maps = 7.5 * width

    def forward(self, x: Tensor) -> Features:
        """Return the features of (B, 1, D, H, W)."""
        x0 = self.conv_0(x)
        x1 = self.down_1(x0)
        x2 = self.down_2(x1)
        x3 = self.down_3(x2)
        deep = self.down_4(x3)
        u2 = self.upcat_2(self.upcat_3(self.upcat_4(deep, x3), x2), x1)
        return Features(deep, self.upcat_1(u2, x0))
