"""The slice classifier of [TS] section 2: which slices can hold a class at all.

    chunk (B, T+4, S, S) in [0, 1]
    slice and its two neighbours as channels -> timm network -> presence logits (B, T, K)

One output a class, so that a data set that annotates the liver alone teaches nothing about lungs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT
from samcancer.errors import InputError
from samcancer.modeling.outputs import PresenceOutput

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


@torch.inference_mode()
def predict_presence(model: nn.Module, chunk: Tensor) -> Tensor:
    """Return the presence probabilities (T, K) of a chunk (T+4, S, S) in [0, 1]."""
    return torch.sigmoid(model(chunk[None]).presence_logits[0].float())
