"""Each recipe's optimiser is the one it names, with its rate, decay and momentum."""

from __future__ import annotations

import pytest
import torch
from monai.optimizers import Novograd
from torch import nn

from samcancer.config import Optimizer, TrainConfig
from samcancer.training.optimizers import make_optimizer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("novograd", Novograd),
    ],
)
def test_the_configured_optimizer_is_made(
    name: Optimizer, kind: type[torch.optim.Optimizer]
) -> None:
    config = TrainConfig(optimizer=name, learning_rate=0.25, weight_decay=0.125)
    made = make_optimizer(nn.Linear(2, 2).parameters(), config)
    assert type(made) is kind
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.25, 0.125)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_its_momentum(momentum: float) -> None:
    config = TrainConfig(optimizer="sgd", momentum=momentum)
    group = make_optimizer(nn.Linear(2, 2).parameters(), config).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (momentum, momentum > 0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "novograd"])
def test_every_optimizer_lowers_a_simple_loss(name: Optimizer) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make_optimizer([weight], TrainConfig(optimizer=name, learning_rate=0.05))
    for _ in range(50):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert float((weight.detach() ** 2).sum()) < 13 / 2
