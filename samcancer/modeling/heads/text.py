"""Classes told apart by the text of a frozen tower ([UM] section 3.2)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.heads.segmentor import Segmentor
from samcancer.modeling.heads.shape import HeadShape


class TextSegmentor(Segmentor):
    """Reads where a class's text lies among all classes of the table it was built with.

    Sentences about classes are almost parallel, so their mean is taken off first.
    """

    text_mean: Tensor

    def __init__(self, text: TextVectors, *, deep_channels: int, channels: int) -> None:
        """Build for the classes of the text."""
        vectors = _directions(text.vectors, text.mean)
        super().__init__(vectors, deep_channels=deep_channels, channels=channels)
        self.register_buffer("text_mean", text.mean.clone())

    def ask(self, vectors: Tensor) -> None:
        """Replace the classes by those of other text vectors (K', D), trained or not."""
        self.vectors = _directions(vectors.to(self.text_mean), self.text_mean)


def _directions(vectors: Tensor, mean: Tensor) -> Tensor:
    """(K, D) of length sqrt(D), so that their numbers are about 1."""
    return F.normalize(vectors - mean, dim=-1) * math.sqrt(vectors.shape[-1])


def text_head(shape: HeadShape, text: TextVectors | None) -> nn.Module:
    """Build the head; ValueError unless every class has a text vector."""
    if text is None or len(text.vectors) != shape.classes:
        raise ValueError(f"the head 'text' needs {shape.classes} text vectors")
    return TextSegmentor(text, deep_channels=shape.deep_channels, channels=shape.channels)
