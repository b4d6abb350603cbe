"""The 3D backbones of the volume networks, by name; MONAI is imported when one is built.

    volume (B, 1, D, H, W) in [0, 1]
    deep    (B, deep_channels, D / stride, H / stride, W / stride), the coarsest features
    decoded (B, channels, D, H, W), the features that classes are read off

A new backbone is a file beside this one and a line in :data:`BACKBONES`.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from samcancer.errors import InputError

BACKBONES = {
    "unet": "unet.UNet",
    "segresnet": "segresnet.SegResNet",
    "swin_unetr": "swin_unetr.SwinUnetr",
}
"""Name -> module in this package and class, made with a width in channels."""


class Features(NamedTuple):
    """What a backbone sees in a volume."""

    deep: Tensor
    """(B, deep_channels, d, h, w)."""
    decoded: Tensor
    """(B, channels, D, H, W)."""


class Backbone(Protocol):
    """A 3D encoder and decoder without a last layer."""

    stride: int
    """Edge length of a volume in voxels of the deep features; volumes are a multiple of it."""
    deep_channels: int
    channels: int
    working_maps: float
    """Working memory at inference in maps of the volume's size, in float32."""

    def __call__(self, volume: Tensor) -> Features:
        """Return the features of (B, 1, D, H, W)."""


def build_backbone(name: str, width: int) -> Any:
    """Build a backbone with ``width`` channels at full resolution; it is also an ``nn.Module``.

    Raises:
        InputError: When the name is unknown or MONAI is not installed.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}", mend=f"choose from {', '.join(BACKBONES)}")
    module, _, kind = BACKBONES[name].partition(".")
    try:
        found: Any = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    except ModuleNotFoundError as error:
        raise InputError(
            f"backbone {name!r} needs the package {error.name}",
            mend="pip install 'samcancer[systems]'",
        ) from None
    try:
        return found(width)
    except ValueError as error:
        raise InputError(
            f"backbone {name!r} cannot have width {width} ({error})",
            mend="change model.universal.width",
        ) from None
