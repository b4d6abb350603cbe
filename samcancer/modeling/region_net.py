"""The slice classifier of [TS] section 2: which slices can hold a class at all.

    chunk (B, T+4, S, S) in [0, 1]
    slice and its two neighbours as channels -> timm network -> presence logits (B, T, K)

One output a class, so that a data set that annotates the liver alone teaches nothing about lungs. A
class's slices are taken from the first to the last positive one, so that gaps between them, as in
a set of several lesions, are neither to be learned nor lost.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT
from samcancer.errors import InputError
from samcancer.modeling.chunks import Chunk, SliceSource
from samcancer.modeling.engine import evaluating, in_pieces
from samcancer.modeling.outputs import PresenceOutput
from samcancer.modeling.slice_prediction import Member
from samcancer.windowing import window

_CHANNELS = 3
"""Slices a classification looks at."""


class RegionNet(nn.Module):
    """A 2D classification network over three neighbouring slices."""

    takes_presence: bool = False
    slice_context: int = SLICE_CONTEXT

    def __init__(self, class_names: Sequence[str], *, backbone: str) -> None:
        """Build from random weights.

        Args:
            class_names: K, in the order of the outputs.
            backbone: Name of a timm network.

        Raises:
            InputError: When timm is missing or does not know the name.
        """
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError:
            raise InputError(
                "the slice classifier needs timm", mend="pip install 'samcancer[systems]'"
            ) from None
        if not timm.is_model(backbone):
            raise InputError(
                f"timm has no network {backbone!r}", mend="choose model.region.backbone, resnet18"
            )
        self.class_names = tuple(class_names)
        self.net = timm.create_model(
            backbone, pretrained=False, in_chans=_CHANNELS, num_classes=len(self.class_names)
        )

    def forward(self, chunk: Tensor) -> PresenceOutput:
        """Classify the T target slices of (B, T+4, S, S)."""
        edge = SLICE_CONTEXT - _CHANNELS // 2
        triples = chunk[:, edge : chunk.shape[1] - edge].unfold(1, _CHANNELS, 1)
        slices = triples.permute(0, 1, 4, 2, 3)
        logits: Tensor = self.net(slices.flatten(0, 1))
        return PresenceOutput(logits.view(*slices.shape[:2], -1))


def predict_presence(
    member: Member,
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    batch: int,
    device: torch.device | str,
) -> Tensor:
    """Return the presence probabilities (Z, K) of a case's slices, on the CPU.

    Always in 32 bits: the thresholds are as fine as the probabilities that they were taken from.

    Args:
        member: A region network, on the device already, and its window.
        slices_hu: (Z + 4, S, S) padded slices.
        batch: Slices at once.
        device: Where they are sent.
    """

    def classify(chunk: Chunk) -> Tensor:
        grey = window(chunk.slices_hu.to(device).float(), member.window_hu)[None]
        presence: Tensor = torch.sigmoid(member.model(grey).presence_logits[0])
        return presence.cpu()

    with evaluating([member.model]):
        pieces = in_pieces(slices_hu, classify, batch=batch, autocast=contextlib.nullcontext())
        return torch.cat([presence for _, presence in pieces])


def slices_around(positive: NDArray[np.bool_], *, margin: int) -> range:
    """Return the slices from the first to the last positive one and a margin; empty without any.

    Args:
        positive: (Z,) flags.
        margin: Slices added at both ends, as far as there are any.
    """
    places = np.flatnonzero(positive)
    if len(places) == 0:
        return range(0)
    return range(max(int(places[0]) - margin, 0), min(int(places[-1]) + margin + 1, len(positive)))


def margin_slices(margin_mm: float, slice_mm: float) -> int:
    """Return the number of slices that a margin takes at least, ``slice_mm`` apart."""
    return math.ceil(margin_mm / slice_mm)
