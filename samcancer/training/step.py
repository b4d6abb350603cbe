"""One optimisation step: forward, masked loss, backward, clipping, update.

Several processes share a batch and take the step that one would take with all of it: the loss is
divided by the amounts of all, batch norms take the statistics of all, gradients are added up, and
what is drawn for a sample follows from the sample.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from samcancer.config import TrainConfig
from samcancer.data.dataset import Sample
from samcancer.errors import InputError
from samcancer.modeling.encoder_features import EncoderFeatures
from samcancer.training.batch_norm import share_batch_norms
from samcancer.training.devices import summed
from samcancer.training.drawn_prompts import draw_prompts
from samcancer.training.losses import LossParts, Targets, loss_of, unpack_targets
from samcancer.training.optimizers import make_optimizer
from samcancer.training.schedule import learning_rate_factor

_TOLD_STREAM = 1
"""Keeps the numbers drawn for what a network is told apart from those of the augmentation."""


class Gradient(NamedTuple):
    """What a batch says before the step is taken."""

    parts: LossParts
    """Of the loss of the whole batch, detached."""
    finite: bool
    """Whether loss and gradient are."""


class Stepper:
    """The network in training with its optimiser, on the devices of Fabric."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, *, class_count: int, fabric: Fabric
    ) -> None:
        """Move the network to its device; only parameters that require a gradient are trained.

        Raises:
            InputError: When several processes train and cannot share a norm of the network.
        """
        self._config, self._class_count, self._fabric = config, class_count, fabric
        self.optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], config)
        self._takes_presence = bool(getattr(model, "takes_presence", True))
        takes_prompts = bool(getattr(model, "takes_manual_prompts", False))
        self._prompt_share = config.manual_prompts if takes_prompts else 0.0
        self._summed = summed(fabric)
        self._norms = share_batch_norms(model) if fabric.world_size > 1 else []
        self._model, self._fabric_optimizer = fabric.setup(model, self.optimizer)

    @property
    def learning_rate(self) -> float:
        """Rate of the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_mode(self) -> None:
        """Switch layers such as dropout to training."""
        self._model.train()

    def compute(self, batch: Sample, *, counts: bool = True) -> Gradient:
        """Compute the clipped gradient of a batch; the network does not change yet.

        Args:
            batch: This process's share of it.
            counts: False when the share is empty and what is given stands in for it.

        Raises:
            InputError: When the GPU's memory is full.
        """
        targets = unpack_targets(batch, self._class_count)
        if not counts:
            targets = targets.nothing_known()
        for shared in self._norms:
            shared.counts = counts
        self._fabric_optimizer.zero_grad()
        try:
            told = self._told(targets, batch["seed"].tolist())
            output = self._model(batch["image"], *told, **_given_features(batch))
            parts = loss_of(output, targets, self._config, summed=self._summed)
            # the processes' gradients are averaged, their losses add up
            self._fabric.backward(parts.total * self._fabric.world_size)
        except torch.OutOfMemoryError:
            raise InputError(
                f"the GPU has too little memory for train.batch_size {self._config.batch_size}",
                mend="lower train.batch_size or data.slices_per_sample",
            ) from None
        parts = self._of_all(parts)
        norm = self._fabric.clip_gradients(
            self._model,
            self._fabric_optimizer,
            max_norm=self._config.gradient_clip,
            error_if_nonfinite=False,
        )
        return Gradient(parts, self._is_finite(parts, norm))

    def _of_all(self, parts: LossParts) -> LossParts:
        """Add up the processes' parts of the loss, without gradient."""
        *scalars, class_dice = (part.detach() for part in parts)
        flat = self._summed(torch.cat([torch.stack(scalars), class_dice.flatten()]))
        total, dice, bce, presence, coarse = flat[: len(scalars)].unbind()
        class_dice = flat[len(scalars) :].view_as(class_dice)
        return LossParts(total, dice, bce, presence, coarse, class_dice)

    def _told(self, targets: Targets, seeds: list[int]) -> list[Any]:
        """Return what the network is told about the batch: presence, and drawn prompts if any."""
        if not self._takes_presence:
            return []
        rngs = [np.random.default_rng([_TOLD_STREAM, seed]) for seed in seeds]
        presence = targets.teacher_presence(false_share=self._config.false_presence, rngs=rngs)
        manual = draw_prompts(targets, share=self._prompt_share, rngs=rngs)
        return [presence] if manual is None else [presence, manual]

    def apply(self, progress: float) -> None:
        """Take the step with the learning rate that belongs to the progress of the run."""
        rate = self._config.learning_rate * learning_rate_factor(
            progress,
            warmup_fraction=self._config.warmup_fraction,
            decay_power=self._config.decay_power,
            decay=self._config.decay,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._fabric_optimizer.step()

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler of 16-bit precision; empty without one."""
        return dict(self._fabric.strategy.precision.state_dict())

    def restore(self, optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Go on with the states of an optimiser and a scaler."""
        self.optimizer.load_state_dict(optimizer)
        if scaler:
            self._fabric.strategy.precision.load_state_dict(scaler)

    def _is_finite(self, parts: LossParts, norm: Tensor | None) -> bool:
        """Judge the gradient only without a scaler, which deals with it by itself."""
        finite = math.isfinite(float(parts.total))
        if norm is None or self.scaler_state():
            return finite
        return finite and math.isfinite(float(norm))


def _given_features(batch: Sample) -> dict[str, EncoderFeatures]:
    """Return a batch's cached features, if any, in the type they were computed in."""
    if "features" not in batch:
        return {}
    *stages, embedding = (values.float() for values in batch["features"])
    return {"encoded": EncoderFeatures(tuple(stages), embedding)}
