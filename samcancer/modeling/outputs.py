"""What the networks return; B samples, T slices, K classes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class NetOutput(NamedTuple):
    """Of a network that looks at a chunk of slices for T target slices."""

    mask_logits: Tensor
    """(B, T, K, S, S)."""
    presence_logits: Tensor
    """(B, T, K): whether the slice holds the class at all."""
    coarse_logits: Tensor | None = None
    """(B, T, K, S/4, S/4) masks from before the prompts, for training; None without such a head."""


class VolumeOutput(NamedTuple):
    """Of a network that looks at a patch of a volume."""

    mask_logits: Tensor
    """(B, T, K, h, w)."""


class PresenceOutput(NamedTuple):
    """Of a network that outlines nothing."""

    presence_logits: Tensor
    """(B, T, K): whether the slice holds the class at all."""
