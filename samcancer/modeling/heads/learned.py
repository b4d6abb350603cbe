"""Classes told apart by vectors that are learned, as [SC]'s indicators are."""

from __future__ import annotations

import torch
from torch import nn

from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.heads.segmentor import EMBEDDING, Segmentor
from samcancer.modeling.heads.shape import HeadShape


def learned_head(shape: HeadShape, _text: TextVectors | None) -> nn.Module:
    """Build the head."""
    vectors = nn.Parameter(torch.randn(shape.classes, EMBEDDING))
    return Segmentor(vectors, deep_channels=shape.deep_channels, channels=shape.channels)
