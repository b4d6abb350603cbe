"""How networks are run over a case, whatever their system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samcancer.modeling.manual_prompts import SlicePrompt


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of samcancer.modeling.predict."""

    batch: int = 8
    """Slices per chunk (T). On a full GPU it is halved until it fits."""
    device: torch.device | str = "cpu"
    """Where the chunks are sent; the networks are there already."""
    precision: str = "32-true"
    """One of Lightning Fabric's names; ``32-true``, ``bf16-mixed`` or ``16-mixed``."""
    flip: bool = False
    """Also predict on left-right mirrored slices and average the probabilities; volume networks
    average the logits, as they do where patches overlap."""
    other_sides: Sequence[int] | None = None
    """For each class the one that it is in a mirror, such as the right kidney for the left; None
    when no class has a side."""
    skip_air: bool = True
    """Ask the networks once for all slices of air; prompted slices never count as air."""
    thresholds: Tensor | None = None
    """(K,) presence probability from which a class counts as present in a slice; the logits of
    others are ``ABSENT_LOGIT`` there. None leaves all logits as they are."""
    prompts: Sequence[SlicePrompt] = ()
    """What a person said about single slices; where they are sure of a class, its presence is 1."""
    voxel_mm: tuple[float, float, float] | None = None
    """Distance of slices, rows and columns; volume networks need it."""
    patches_at_once: int = 1
    """Of a volume network; halved like ``batch``."""
    overlap: float | None = None
    """Of the patches; None takes the network's own."""
    stitch_device: torch.device | str | None = None
    """Where overlapping patches are added up; None is ``device``."""

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)
