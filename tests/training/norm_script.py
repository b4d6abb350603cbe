"""A batch norm over six samples in four processes; writes what each computed into the folder given.

Of the processes the third has no sample and runs on one that does not count.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from forked_ranks import fork
from torch import Tensor, nn

from samcancer.training.batch_norm import share_batch_norms

SHARES = (3, 1, 0, 2)


def samples() -> tuple[Tensor, Tensor]:
    """Return x of uneven means and spreads, (6, 5, 4, 3), and a gradient of the same shape."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 6, 5, 4, 3, generator=generator)
    spread, mean = (
        torch.tensor([0.1, 1.0, 3.0, 10.0, 0.5]),
        torch.tensor([0.0, 5.0, -3.0, 1.0, 9.0]),
    )
    return x * spread[:, None, None] + mean[:, None, None], gradient


def norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(5)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 0.5, 2.0, 1.5, -1.0]))
        layer.bias.copy_(torch.tensor([0.0, 0.1, -0.2, 1.0, 3.0]))
    return layer


def one_process(folder: Path, rank: int) -> None:
    torch.distributed.init_process_group("gloo")
    network = nn.Sequential(norm())
    (layer,) = share_batch_norms(network)
    x, gradient = samples()
    start = sum(SHARES[:rank])
    own = slice(start, start + SHARES[rank])
    layer.counts = SHARES[rank] > 0
    x, gradient = (x[own], gradient[own]) if layer.counts else (x[:1] + 100, gradient[:1] * 0)
    x.requires_grad_()
    y = network(x)
    y.backward(gradient)
    state = {name: value.detach() for name, value in network.state_dict().items()}
    gradients = {"x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    torch.save({"y": y.detach(), **state, **gradients}, folder / f"{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork(len(SHARES), lambda rank: one_process(Path(sys.argv[1]), rank))
