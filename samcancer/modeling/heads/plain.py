"""One output channel a class, as of a U-Net ([TS]).

    decoded features (B, C, D, H, W) -> mask logits (B, K, D, H, W)

The scan as a whole has no say, unlike in the segmentor of [UM].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.backbones import Features
from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.heads.shape import HeadShape
from samcancer.modeling.layers import PRIOR_LOGIT

_CLASSES_AT_ONCE = 8


class PlainHead(nn.Module):
    """A 1x1x1 convolution with one output channel a class.

    It is computed for eight classes at a time, so that a class's logits stay the same, bit for bit,
    when others are added: how a matrix product rounds depends on its size.
    """

    class_tensors: ClassVar[Mapping[str, bool]] = {"weight": True, "bias": False}
    """Tensors with a row a class -> whether the row of an added class starts at 0 ([TS])."""

    def __init__(self, classes: int, *, channels: int) -> None:
        """Build for a backbone's decoded channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, channels))
        self.bias = nn.Parameter(torch.full((classes,), PRIOR_LOGIT))
        nn.init.normal_(self.weight, std=channels**-0.5)

    def forward(self, features: Features) -> Tensor:
        """Return mask logits (B, K, D, H, W)."""
        missing = -len(self.weight) % _CLASSES_AT_ONCE
        weights = F.pad(self.weight, (0, 0, 0, missing))[:, :, None, None, None]
        biases = F.pad(self.bias, (0, missing))
        logits = [
            F.conv3d(features.decoded, weight, bias)
            for weight, bias in zip(
                torch.split(weights, _CLASSES_AT_ONCE),
                torch.split(biases, _CLASSES_AT_ONCE),
                strict=True,
            )
        ]
        return torch.cat(logits, dim=1)[:, : len(self.weight)]


def plain_head(shape: HeadShape, _text: TextVectors | None) -> nn.Module:
    """Build the head."""
    return PlainHead(shape.classes, channels=shape.channels)
