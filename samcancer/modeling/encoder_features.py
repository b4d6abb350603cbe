"""A frozen encoder's features, apart from the network: computed without a gradient, or given.

    images (N, 1, S, S) in [0, 1] -> encode -> four tokens (N, h, w, D), embedding (N, h, w, E)
    features (B, T, ...) -> GivenFeatures -> what the encoder would say of N = T * B slices

Where the encoder is frozen and nothing is fed back into it (``model.interaction: ladder``), its
features follow from the windowed slice alone, so they can be computed once and kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from samcancer.modeling.encoders import EncoderPass


class EncoderFeatures(NamedTuple):
    """What an encoder says of slices; leading axes (B, T) for the network, (N,) when computed."""

    stages: tuple[Tensor, ...]
    """Tokens (..., h, w, D) after each of the four stages."""
    embedding: Tensor
    """Image embedding (..., h, w, E), channels last as the tokens."""


def encode(encoder: EncoderPass, images: Tensor) -> EncoderFeatures:
    """Return the features of slices, images (N, 1, S, S) in [0, 1], without a gradient."""
    apart = WithoutGradient(encoder)
    stages = [apart.stage(0, apart.embed(images))]
    for index in (1, 2, 3):
        stages.append(apart.stage(index, stages[-1]))
    return EncoderFeatures(tuple(stages), apart.embedding(stages[-1]).permute(0, 2, 3, 1))


class WithoutGradient:
    """An encoder whose slices pass through without leaving anything for a backward pass."""

    def __init__(self, encoder: EncoderPass) -> None:
        """Take the encoder."""
        self._encoder = encoder

    def embed(self, images: Tensor) -> Tensor:
        """Encode as the encoder does."""
        with torch.no_grad():
            return self._encoder.embed(images)

    def stage(self, index: int, tokens: Tensor) -> Tensor:
        """Run a stage as the encoder does."""
        with torch.no_grad():
            return self._encoder.stage(index, tokens)

    def embedding(self, tokens: Tensor) -> Tensor:
        """Return the image embedding as the encoder does."""
        with torch.no_grad():
            return self._encoder.embedding(tokens)


class GivenFeatures:
    """Stands in for an encoder that has seen the slices before."""

    def __init__(self, features: EncoderFeatures) -> None:
        """Take features (B, T, ...) apart, slice by slice."""
        self._stages = tuple(_by_slice(tokens) for tokens in features.stages)
        self._embedding = _by_slice(features.embedding).permute(0, 3, 1, 2)

    def embed(self, images: Tensor) -> Tensor:
        """Return the images; what follows does not look at them."""
        return images

    def stage(self, index: int, tokens: Tensor) -> Tensor:
        """Return the tokens (N, h, w, D) after a stage, whatever came before."""
        del tokens
        return self._stages[index]

    def embedding(self, tokens: Tensor) -> Tensor:
        """Return the image embedding (N, E, h, w)."""
        del tokens
        return self._embedding


def _by_slice(x: Tensor) -> Tensor:
    """(B, T, ...) -> (T * B, ...), in the network's order."""
    return x.transpose(0, 1).flatten(0, 1)
