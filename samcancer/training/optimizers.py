"""The optimisers of the papers' recipes: Adam [SC], AdamW [UM], SGD [LV], NovoGrad [UM23]."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from samcancer.config import TrainConfig
from samcancer.errors import InputError


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainConfig
) -> torch.optim.Optimizer:
    """Return the configured optimiser of the parameters.

    Raises:
        InputError: When it is MONAI's NovoGrad and MONAI is not installed.
    """
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov
        )
    if config.optimizer == "novograd":
        novograd: torch.optim.Optimizer = _novograd()(parameters, lr=rate, weight_decay=decay)
        return novograd
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay)


def _novograd() -> Any:
    try:
        from monai.optimizers import Novograd
    except ModuleNotFoundError:
        raise InputError(
            "train.optimizer novograd needs MONAI", mend="pip install 'samcancer[systems]'"
        ) from None
    return Novograd
