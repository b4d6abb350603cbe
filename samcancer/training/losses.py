"""The loss of partially labelled training: nothing is said about what is not known.

Per slice and class: soft Dice where the class is present, binary cross-entropy over all known
voxels, and binary cross-entropy of the presence logit where presence is known ([SC] section 3:
Dice + cross-entropy). Masked back-propagation ([UM] section 3.3): voxels of an unknown class enter
neither term, so its gradient is exactly zero. A batch without any lesion still learns from the
cross-entropy; Dice over the whole batch would give it nothing.

Shapes: B samples, T target slices, K classes, S pixels. Computed in float32 from logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samcancer.config import TrainConfig
from samcancer.data.dataset import Sample, unpack_bits


class Targets(NamedTuple):
    """What is known about a batch, as 0 and 1 in float32."""

    labels: Tensor
    """(B, T, K, S, S)"""
    known: Tensor
    """(B, T, K, S, S)"""
    presence: Tensor
    """(B, T, K)"""
    presence_known: Tensor
    """(B, T, K)"""

    def teacher_presence(self) -> Tensor:
        """(B, T, K) presence for teacher forcing: 0, 1, or NaN where it is unknown."""
        return self.presence.masked_fill(self.presence_known == 0, float("nan"))


class LossParts(NamedTuple):
    """The weighted sum and its parts, each a scalar; ``class_dice`` is without gradient."""

    total: Tensor
    dice: Tensor
    bce: Tensor
    presence: Tensor
    class_dice: Tensor
    """(2, K): sum of soft Dice over the slices that show the class, and their number."""


def unpack_targets(batch: Sample, class_count: int) -> Targets:
    """Spread a batch's bit fields over its classes."""
    labels = unpack_bits(batch["label_bits"], class_count)
    return Targets(
        labels=labels,
        known=unpack_bits(batch["known_bits"], class_count),
        presence=labels.amax(dim=(-2, -1)),
        presence_known=unpack_bits(batch["presence_known"], class_count),
    )


def masked_loss(
    mask_logits: Tensor, presence_logits: Tensor, targets: Targets, config: TrainConfig
) -> LossParts:
    """Return the loss of a batch.

    Args:
        mask_logits: (B, T, K, S, S).
        presence_logits: (B, T, K).
        targets: What is known.
        config: Weights of the parts.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        mask_logits, presence_logits = mask_logits.float(), presence_logits.float()
        dice, class_dice = _dice_loss(mask_logits, targets)
        weight = targets.known * (1 + (config.lesion_weight - 1) * targets.labels)
        bce = _weighted_bce(mask_logits, targets.labels, weight)
        presence = _weighted_bce(presence_logits, targets.presence, targets.presence_known)
        total = (
            config.dice_weight * dice + config.bce_weight * bce + config.presence_weight * presence
        )
    return LossParts(total, dice, bce, presence, class_dice)


def _dice_loss(logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return 1 - mean soft Dice of the (sample, slice, class) with a labelled voxel; 0 if none.

    The counts are not smoothed: where a class is present they hold at least one voxel, and a voxel
    added to both would reward an empty mask for a small lesion with a Dice far above 0, a plateau
    that training does not leave.
    """
    probability = torch.sigmoid(logits) * targets.known
    overlap = (probability * targets.labels).sum(dim=(-2, -1))
    sizes = probability.sum(dim=(-2, -1)) + targets.labels.sum(dim=(-2, -1))
    dice = 2 * overlap / sizes.clamp(min=1)
    present = targets.presence
    loss = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    summed = (dice * present).sum(dim=(0, 1))
    return loss, torch.stack([summed, present.sum(dim=(0, 1))]).detach()


def _weighted_bce(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean binary cross-entropy; 0 if all weights are, as of what is unknown.

    A mean does not change its scale with the number of classes or with how many are unknown.
    """
    summed = F.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="sum")
    return summed / weight.sum().clamp(min=1)
