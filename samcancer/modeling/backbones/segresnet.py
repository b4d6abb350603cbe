"""MONAI's ``SegResNet`` (Myronenko 2018) without its last convolution; the backbone of [UM23]."""

from __future__ import annotations

from monai.networks.nets import SegResNet as MonaiSegResNet
from torch import Tensor, nn

from samcancer.modeling.backbones import Features

_BLOCKS_DOWN = (1, 2, 2, 4)


class SegResNet(MonaiSegResNet):  # type: ignore[misc]  # monai is not typed
    """Three times halved, residual blocks with group norm."""

    stride = 2 ** (len(_BLOCKS_DOWN) - 1)

    def __init__(self, width: int) -> None:
        """Build with ``width`` channels at full resolution, a multiple of the norm's 8 groups."""
        if width % 8:
            raise ValueError(f"a multiple of 8 is needed, got {width}")
        super().__init__(init_filters=width, in_channels=1, blocks_down=_BLOCKS_DOWN)
        self.use_conv_final = False
        self.conv_final = nn.Identity()
        self.channels = width
        self.deep_channels = width * self.stride
        self.working_maps = 4.5 * width

    def forward(self, x: Tensor) -> Features:
        """Return the features of (B, 1, D, H, W)."""
        deep, skips = self.encode(x)
        skips.reverse()
        return Features(deep, self.decode(deep, skips))
