"""Heads of the volume networks: class masks from a backbone's features ([UM] section 3.2).

    class vectors  w (K, D): text embeddings, one-hot, or learned
    global feature f (B, E), the deep features pooled
    controller     theta_k = MLP(w_k (+) f), 153 numbers of three 1x1x1 convolutions (8, 8, 1)
    segmentor      decoded features (B, C, D, H, W) -> 8 channels -> theta -> logits (B, K, D, H, W)

The convolutions of all classes are one batched product a layer; the features are never repeated for
a class. ``PlainHead`` is one output channel a class, as of a U-Net ([TS]).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.config import Head
from samcancer.modeling.backbones import Features
from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.layers import PRIOR_LOGIT

SEGMENTOR_CHANNELS = (8, 8, 1)
"""Of the three convolutions; the first has 8 input channels ([UM] section 3.2)."""

_EMBEDDING = 256
"""Length of the global feature and of a class's vector after the projection ([UM], its code's
256)."""

_NORM_GROUPS = 16

_CLASSES_AT_ONCE = 8


class TextDrivenHead(nn.Module):
    """A segmentor for each class, written by an MLP from its vector and the scan."""

    class_tensors: ClassVar[Mapping[str, bool]] = {"vectors": False, "learned_vectors": False}
    """As of :class:`PlainHead`; an added class's segmentor is written from its own vector."""

    vectors: Tensor
    """(K, D), fixed; of ``learned`` the parameter ``learned_vectors`` takes its place."""

    def __init__(
        self,
        classes: int,
        *,
        deep_channels: int,
        channels: int,
        kind: Head,
        text: TextVectors | None = None,
    ) -> None:
        """Build.

        Args:
            classes: K.
            deep_channels: Of the backbone's deep features.
            channels: Of its decoded features.
            kind: Where the class vectors come from.
            text: Of the classes, for kind ``text``.
        """
        super().__init__()
        self.learned_vectors: nn.Parameter | None = None
        if kind == "learned":
            self.learned_vectors = nn.Parameter(torch.randn(classes, _EMBEDDING))
        elif kind == "onehot":
            self.register_buffer("vectors", torch.eye(classes))
        elif text is not None and len(text.vectors) == classes:
            self.register_buffer("vectors", F.normalize(text.vectors, dim=-1))
        else:
            raise ValueError(f"a head of kind {kind!r} needs {classes} text vectors")
        length = _EMBEDDING if kind == "learned" else self.vectors.shape[1]
        self.project = nn.Linear(length, _EMBEDDING)
        self.pool = nn.Sequential(
            nn.GroupNorm(_groups(deep_channels), deep_channels),
            nn.ReLU(inplace=False),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(deep_channels, _EMBEDDING),
        )
        self.reduce = nn.Sequential(
            nn.GroupNorm(_groups(channels), channels),
            nn.ReLU(inplace=False),
            nn.Conv3d(channels, SEGMENTOR_CHANNELS[0], 1),
        )
        self._layers = list(
            zip((SEGMENTOR_CHANNELS[0], *SEGMENTOR_CHANNELS), SEGMENTOR_CHANNELS, strict=False)
        )
        self._sizes = [n for inputs, outputs in self._layers for n in (inputs * outputs, outputs)]
        self.controller = nn.Sequential(
            nn.Linear(2 * _EMBEDDING, _EMBEDDING),
            nn.ReLU(inplace=False),
            nn.Linear(_EMBEDDING, sum(self._sizes)),
        )
        self._start_controller()

    def forward(self, features: Features) -> Tensor:
        """Return mask logits (B, K, D, H, W)."""
        x = self.reduce(features.decoded)
        batch, size = len(x), x.shape[2:]
        x = x.flatten(2)
        theta = torch.split(self._controls(features.deep), self._sizes, dim=-1)
        weights, biases = theta[::2], theta[1::2]
        for index, (inputs, outputs) in enumerate(self._layers):
            weight = weights[index].unflatten(-1, (outputs, inputs))
            bias = biases[index].unsqueeze(-1)
            if index == 0:  # all classes read the same channels: one product
                x = torch.baddbmm(bias.flatten(1, 2), weight.flatten(1, 2), x)
                x = x.unflatten(1, (-1, outputs)).flatten(0, 1)
            else:
                x = torch.baddbmm(bias.flatten(0, 1), weight.flatten(0, 1), F.relu(x))
        return x.view(batch, -1, *size)

    def _controls(self, deep: Tensor) -> Tensor:
        """Return theta (B, K, 153)."""
        vectors = self.vectors if self.learned_vectors is None else self.learned_vectors
        asked = F.relu(self.project(vectors))
        seen = self.pool(deep)
        pairs = torch.cat(
            [
                asked.expand(len(seen), -1, -1),
                seen.unsqueeze(1).expand(-1, len(asked), -1),
            ],
            dim=-1,
        )
        theta: Tensor = self.controller(pairs)
        return theta

    @torch.no_grad()
    def _start_controller(self) -> None:
        """Begin with segmentors of the usual size that say "background"."""
        last = self.controller[-1]
        assert isinstance(last, nn.Linear)
        parts = torch.split(last.bias, self._sizes)
        for (inputs, _), weight, bias in zip(self._layers, parts[::2], parts[1::2], strict=True):
            nn.init.normal_(weight, std=(2 / inputs) ** 0.5)
            nn.init.zeros_(bias)
        nn.init.constant_(parts[-1], PRIOR_LOGIT)


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
                weights.split(_CLASSES_AT_ONCE), biases.split(_CLASSES_AT_ONCE), strict=True
            )
        ]
        return torch.cat(logits, dim=1)[:, : len(self.weight)]


def _groups(channels: int) -> int:
    """Return the largest number of norm groups, at most 16, that divides the channels."""
    return next(n for n in range(_NORM_GROUPS, 0, -1) if channels % n == 0)
