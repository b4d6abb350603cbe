"""MONAI's ``SwinUNETR`` (Hatamizadeh et al. 2022) without its last layer; [UM]'s best backbone."""

from __future__ import annotations

import einops  # noqa: F401  # MONAI asks for it only when the network runs
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn

from samcancer.modeling.backbones import Features


class SwinUnetr(SwinUNETR):  # type: ignore[misc]  # monai is not typed
    """Swin transformer as the encoder, five times halved, convolutional decoder."""

    stride = 32

    def __init__(self, width: int) -> None:
        """Build with ``width`` channels at full resolution, a multiple of 12 ([UM]: 48)."""
        if width % 12:
            raise ValueError(f"a multiple of 12 is needed, got {width}")
        super().__init__(in_channels=1, out_channels=1, feature_size=width)
        self.out = nn.Identity()
        self.channels = width
        self.deep_channels = 16 * width
        self.working_maps = 575.0 + 2 * width

    def forward(self, x: Tensor) -> Features:
        """Return the features of (B, 1, D, H, W)."""
        hidden = self.swinViT(x, self.normalize)
        deep = self.encoder10(hidden[4])
        d3 = self.decoder5(deep, hidden[3])
        d2 = self.decoder4(d3, self.encoder4(hidden[2]))
        d1 = self.decoder3(d2, self.encoder3(hidden[1]))
        d0 = self.decoder2(d1, self.encoder2(hidden[0]))
        return Features(deep, self.decoder1(d0, self.encoder1(x)))
