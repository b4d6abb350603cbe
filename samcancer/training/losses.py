"""The loss of partially labelled training: nothing is said about what is not known.

Per slice and class: soft Dice where the class is present, binary cross-entropy over all known
voxels, and binary cross-entropy of the presence logit where presence is known ([SC] section 3:
Dice + cross-entropy). The coarse masks from before the prompts, where the network has them, are
held to the same (deep supervision, as in nnU-Net). Masked back-propagation ([UM] section 3.3):
voxels of an unknown class enter no term, so its gradient is exactly zero. A batch without any
lesion still learns from the cross-entropy; Dice over the whole batch would give it nothing.

Every part is a sum over what is known divided by its amount. Of a batch that several processes
share, each divides its own sum by the amount of all, so that the shares add up to the loss, and
their gradients to the gradient, that one process computes from the whole batch.

Shapes: B samples, T target slices, K classes, S pixels. Computed in float32 from logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samcancer.config import TrainConfig
from samcancer.data.dataset import Sample, unpack_bits
from samcancer.modeling.outputs import NetOutput, PresenceOutput, VolumeOutput

_SLICE = (-2, -1)
_PATCH = (1, -2, -1)
"""Axes of (B, T, K, h, w) that one Dice is taken over."""

Summed = Callable[[Tensor], Tensor]
"""Adds up a tensor over the processes that share a batch; see :func:`alone`."""


def alone(tensor: Tensor) -> Tensor:
    """Return the tensor: the sum over processes when there is one."""
    return tensor


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

    def nothing_known(self) -> Targets:
        """Return targets of the same shapes that enter no term."""
        return Targets(*(torch.zeros_like(part) for part in self))

    def teacher_presence(
        self, *, false_share: float = 0.0, rngs: Sequence[np.random.Generator] = ()
    ) -> Tensor:
        """(B, T, K) presence for teacher forcing: 0, 1, or NaN where it is unknown.

        Args:
            false_share: Chance of a true absence to be told as presence. At inference presence is a
                guess; a decoder that was never told wrong outlines something wherever it is asked.
            rngs: One a sample, from which that is drawn.
        """
        told = self.presence
        if false_share > 0:
            drawn = np.stack([rng.random(told.shape[1:]) < false_share for rng in rngs])
            told = told.masked_fill(torch.from_numpy(drawn).to(told.device), 1.0)
        return told.masked_fill(self.presence_known == 0, float("nan"))

    def coarsened(self, size: torch.Size) -> Targets:
        """Return the targets for masks of (h, w) pixels, each S / h * S / w of these.

        A coarse pixel is labelled if any of its pixels is, and otherwise known if all of them are.
        """
        labels = _largest(self.labels, size)
        unknown = _largest(1 - self.known, size)
        return self._replace(labels=labels, known=torch.maximum(1 - unknown, labels))


class LossParts(NamedTuple):
    """The weighted sum and its parts, each a scalar; ``class_dice`` is without gradient.

    Parts that a network does not have are 0. Of a shared batch they are this process's shares.
    """

    total: Tensor
    dice: Tensor
    bce: Tensor
    presence: Tensor
    coarse: Tensor
    class_dice: Tensor
    """(2, K): sum of soft Dice over the slices, or patches, that show the class, and their
    number."""


def unpack_targets(batch: Sample, class_count: int) -> Targets:
    """Spread a batch's bit fields over its classes."""
    labels = unpack_bits(batch["label_bits"], class_count)
    return Targets(
        labels=labels,
        known=unpack_bits(batch["known_bits"], class_count),
        presence=labels.amax(dim=(-2, -1)),
        presence_known=unpack_bits(batch["presence_known"], class_count),
    )


def loss_of(
    output: NetOutput | VolumeOutput | PresenceOutput,
    targets: Targets,
    config: TrainConfig,
    *,
    summed: Summed = alone,
) -> LossParts:
    """Return the loss of whatever a network says about a batch, or of a process's share of it."""
    if isinstance(output, VolumeOutput):
        return volume_loss(output.mask_logits, targets, config, summed=summed)
    if isinstance(output, PresenceOutput):
        return presence_loss(output.presence_logits, targets, summed=summed)
    return masked_loss(
        output.mask_logits,
        output.presence_logits,
        targets,
        config,
        coarse_logits=output.coarse_logits,
        summed=summed,
    )


def volume_loss(
    mask_logits: Tensor, targets: Targets, config: TrainConfig, *, summed: Summed = alone
) -> LossParts:
    """Return Dice and cross-entropy of patches ([UM] section 3.3); T slices are one patch.

    Args:
        mask_logits: (B, T, K, h, w).
        targets: What is known.
        config: Weights of the parts.
        summed: Over the processes that share the batch.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        *ratios, class_dice = _mask_ratios(mask_logits.float(), targets, config, over=_PATCH)
        dice, bce = _means(ratios, summed)
        none = torch.zeros_like(dice)
        total = config.dice_weight * dice + config.bce_weight * bce
    return LossParts(total, dice, bce, none, none, class_dice)


def presence_loss(
    presence_logits: Tensor, targets: Targets, *, summed: Summed = alone
) -> LossParts:
    """Return the cross-entropy of the presence of each class in each slice, (B, T, K) logits."""
    with torch.autocast(presence_logits.device.type, enabled=False):
        logits = presence_logits.float()
        ratio = _weighted_bce(logits, targets.presence, targets.presence_known)
        (presence,) = _means([ratio], summed)
        none = torch.zeros_like(presence)
        class_dice = torch.zeros(2, logits.shape[-1], device=logits.device)
    return LossParts(presence, none, none, presence, none, class_dice)


def masked_loss(
    mask_logits: Tensor,
    presence_logits: Tensor,
    targets: Targets,
    config: TrainConfig,
    *,
    coarse_logits: Tensor | None = None,
    summed: Summed = alone,
) -> LossParts:
    """Return the loss of a batch.

    Args:
        mask_logits: (B, T, K, S, S).
        presence_logits: (B, T, K).
        targets: What is known.
        config: Weights of the parts.
        coarse_logits: (B, T, K, h, w), h and w divisors of S; None of a network without them.
        summed: Over the processes that share the batch.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        *ratios, class_dice = _mask_ratios(mask_logits.float(), targets, config)
        ratios.append(
            _weighted_bce(presence_logits.float(), targets.presence, targets.presence_known)
        )
        if coarse_logits is not None:
            coarse_targets = targets.coarsened(coarse_logits.shape[-2:])
            ratios += _mask_ratios(coarse_logits.float(), coarse_targets, config)[:2]
        dice, bce, presence, *of_coarse = _means(ratios, summed)
        coarse = torch.zeros_like(presence)
        if of_coarse:
            coarse = config.dice_weight * of_coarse[0] + config.bce_weight * of_coarse[1]
        total = (
            config.dice_weight * dice
            + config.bce_weight * bce
            + config.presence_weight * presence
            + config.coarse_weight * coarse
        )
    return LossParts(total, dice, bce, presence, coarse, class_dice)


class _Ratio(NamedTuple):
    """A sum over what is known of a batch, or of a share of it, and its amount."""

    total: Tensor
    amount: Tensor


def _means(ratios: Sequence[_Ratio], summed: Summed) -> list[Tensor]:
    """Divide each sum by the amount of all processes; 0 if that is, as of what is unknown.

    A mean does not change its scale with the number of classes or with how many are unknown.
    """
    amounts = summed(torch.stack([ratio.amount for ratio in ratios]))
    return [
        ratio.total / amount.clamp(min=1) for ratio, amount in zip(ratios, amounts, strict=True)
    ]


def _mask_ratios(
    logits: Tensor, targets: Targets, config: TrainConfig, *, over: tuple[int, ...] = _SLICE
) -> tuple[_Ratio, _Ratio, Tensor]:
    """Return Dice loss, cross-entropy and the Dice of each class."""
    dice, class_dice = _dice_loss(logits, targets, over)
    weight = targets.known * (1 + (config.lesion_weight - 1) * targets.labels)
    return dice, _weighted_bce(logits, targets.labels, weight), class_dice


def _dice_loss(logits: Tensor, targets: Targets, over: tuple[int, ...]) -> tuple[_Ratio, Tensor]:
    """Return 1 - soft Dice of what shows a class, each summed ``over`` axes.

    The counts are not smoothed: where a class is present they hold at least one voxel, and a voxel
    added to both would reward an empty mask for a small lesion with a Dice far above 0, a plateau
    that training does not leave.
    """
    probability = torch.sigmoid(logits) * targets.known
    overlap = (probability * targets.labels).sum(dim=over, keepdim=True)
    labelled = targets.labels.sum(dim=over, keepdim=True)
    sizes = probability.sum(dim=over, keepdim=True) + labelled
    dice = 2 * overlap / sizes.clamp(min=1)
    present = (labelled > 0).float()
    loss = _Ratio(((1 - dice) * present).sum(), present.sum())
    others = (0, 1, 3, 4)
    return loss, torch.stack([(dice * present).sum(dim=others), present.sum(dim=others)]).detach()


def _weighted_bce(logits: Tensor, labels: Tensor, weight: Tensor) -> _Ratio:
    """Return the weighted sum of the binary cross-entropy and the sum of the weights."""
    summed = F.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="sum")
    return _Ratio(summed, weight.sum())


def _largest(x: Tensor, size: torch.Size) -> Tensor:
    """(B, T, K, S, S) -> (B, T, K, h, w), the largest of the pixels that each new one covers."""
    largest = F.adaptive_max_pool2d(x.flatten(0, 1), list(size))
    return largest.view(*x.shape[:3], *size)
