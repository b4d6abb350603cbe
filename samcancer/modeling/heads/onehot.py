"""Classes told apart by their number, which says nothing of them: the comparison of [UM]."""

from __future__ import annotations

import math

import torch
from torch import nn

from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.heads.segmentor import Segmentor
from samcancer.modeling.heads.shape import HeadShape


def onehot_head(shape: HeadShape, _text: TextVectors | None) -> nn.Module:
    """Build the head."""
    vectors = math.sqrt(shape.classes) * torch.eye(shape.classes)
    return Segmentor(vectors, deep_channels=shape.deep_channels, channels=shape.channels)
