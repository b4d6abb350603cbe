"""The volume network of [UM] section 3, [LV] and [TS]: a backbone and a head of classes.

    patch (B, D, H, W) in [0, 1]
    backbone -> deep (B, E, d, h, w), decoded (B, C, D, H, W)
    head     -> mask logits (B, D, K, H, W)

Slices come second, as in every network's output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from samcancer.config import UniversalConfig
from samcancer.modeling.outputs import VolumeOutput

_DECODED_MAPS, _LOGIT_MAPS = 3, 2
"""Times the decoded features, and the logits, are alive while a head draws."""


class UniversalNet(nn.Module):
    """One sigmoid a class, in patches of a volume resampled to the network's spacing."""

    takes_presence: bool = False

    def __init__(
        self,
        class_names: Sequence[str],
        patches: UniversalConfig,
        *,
        backbone: Any,
        head: nn.Module,
    ) -> None:
        """Put the parts together.

        Args:
            class_names: K, in the order of the outputs.
            patches: Size, spacing and overlap of the patches it is run on.
            backbone: See samcancer.modeling.backbones.
            head: See samcancer.modeling.class_heads.
        """
        super().__init__()
        self.class_names = tuple(class_names)
        self.patches = patches
        self.backbone = backbone
        self.head = head

    @property
    def patch_bytes(self) -> int:
        """Working memory at inference for one patch, float32."""
        voxels, classes = math.prod(self.patches.patch_size), len(self.class_names)
        drawn = voxels * (_DECODED_MAPS * self.backbone.channels + _LOGIT_MAPS * classes)
        head: Any = self.head
        if hasattr(head, "working_numbers"):
            drawn += head.working_numbers(voxels)
        working: float = max(voxels * self.backbone.working_maps, drawn)
        return round(4 * working)

    def ask(self, class_names: Sequence[str], vectors: Tensor) -> None:
        """Replace the classes by others, trained or not, given their text vectors (K', D)."""
        head: Any = self.head
        head.ask(vectors)
        self.class_names = tuple(class_names)

    def forward(self, patch: Tensor) -> VolumeOutput:
        """Segment patches (B, D, H, W), windowed to [0, 1].

        Raises:
            ValueError: When a side is no multiple of the backbone's stride.
        """
        stride: int = self.backbone.stride
        if patch.ndim != 4 or any(side % stride for side in patch.shape[1:]):
            msg = f"patches must be (B, D, H, W), multiples of {stride}; got {tuple(patch.shape)}"
            raise ValueError(msg)
        logits: Tensor = self.head(self.backbone(patch.unsqueeze(1)))
        return VolumeOutput(logits.transpose(1, 2))
