"""The text-driven segmentor of [UM] section 3.2: a small network a class, written on the fly.

    class vectors  w (K, D): whatever tells classes apart
    global feature f (B, E), the deep features pooled
    controller     theta_k = MLP(w_k (+) f), 153 numbers of three 1x1x1 convolutions (8, 8, 1)
    segmentor      decoded features (B, C, D, H, W) -> 8 channels -> theta -> logits (B, K, D, H, W)

The convolutions of all classes are one batched product a layer; the features are never repeated for
a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.backbones import Features
from samcancer.modeling.layers import PRIOR_LOGIT

SEGMENTOR_CHANNELS = (8, 8, 1)
"""Of the three convolutions; the first has 8 input channels ([UM] section 3.2)."""

EMBEDDING = 256
"""Length of the global feature and of a class's vector after the projection; ours, the paper gives
none."""

_NORM_GROUPS = 16

_VOXELS_AT_ONCE = 1 << 16
"""Of a scan, at inference."""


class Segmentor(nn.Module):
    """A segmentor for each class, written by an MLP from its vector and the scan."""

    class_tensors: ClassVar[Mapping[str, bool]] = {"vectors": False}
    """Tensors with a row a class -> whether the row of an added class starts at 0."""

    vectors: Tensor

    def __init__(
        self, vectors: Tensor | nn.Parameter, *, deep_channels: int, channels: int
    ) -> None:
        """Build.

        Args:
            vectors: (K, D), one a class; a parameter is trained, any other tensor is fixed.
            deep_channels: Of the backbone's deep features.
            channels: Of its decoded features.
        """
        super().__init__()
        if isinstance(vectors, nn.Parameter):
            self.vectors = vectors
        else:
            self.register_buffer("vectors", vectors)
        self.project = nn.Linear(vectors.shape[1], EMBEDDING)
        self.pool = nn.Sequential(
            nn.GroupNorm(_groups(deep_channels), deep_channels),
            nn.ReLU(inplace=False),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(deep_channels, EMBEDDING),
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
            nn.Linear(2 * EMBEDDING, EMBEDDING),
            nn.ReLU(inplace=False),
            nn.Linear(EMBEDDING, sum(self._sizes)),
        )
        self._start_controller()

    def working_numbers(self, voxels: int) -> int:
        """Return the numbers alive while a patch is segmented, beside features and logits."""
        return 3 * SEGMENTOR_CHANNELS[0] * len(self.vectors) * min(voxels, _VOXELS_AT_ONCE)

    def forward(self, features: Features) -> Tensor:
        """Return mask logits (B, K, D, H, W)."""
        x = self.reduce(features.decoded)
        voxels = x.flatten(2)
        theta = self._controls(features.deep)
        if torch.is_grad_enabled():
            logits = self._segment(voxels, theta)
        else:  # 24 numbers a voxel and class, so not of all voxels at once
            blocks = torch.split(voxels, _VOXELS_AT_ONCE, dim=-1)
            logits = torch.cat([self._segment(block, theta) for block in blocks], dim=-1)
        return logits.view(len(x), -1, *x.shape[2:])

    def _segment(self, x: Tensor, theta: Tensor) -> Tensor:
        """Run the segmentors (B, K, 153) of all classes on voxels (B, 8, V): (B, K, V)."""
        batch = len(x)
        parts = torch.split(theta, self._sizes, dim=-1)
        weights, biases = parts[::2], parts[1::2]
        for index, (inputs, outputs) in enumerate(self._layers):
            weight = weights[index].view(batch, -1, outputs, inputs)
            bias = biases[index].unsqueeze(-1)
            if index == 0:  # all classes read the same channels: one product
                x = torch.baddbmm(bias.flatten(1, 2), weight.flatten(1, 2), x)
                x = x.view(-1, outputs, x.shape[-1])
            else:
                x = torch.baddbmm(bias.flatten(0, 1), weight.flatten(0, 1), F.relu(x))
        return x.view(batch, -1, x.shape[-1])

    def _controls(self, deep: Tensor) -> Tensor:
        """Return theta (B, K, 153)."""
        asked = F.relu(self.project(self.vectors))
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


def _groups(channels: int) -> int:
    """Return the largest number of norm groups, at most 16, that divides the channels."""
    return next(n for n in range(_NORM_GROUPS, 0, -1) if channels % n == 0)
