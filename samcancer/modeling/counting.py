"""Count a network's parameters and its multiply-adds per slice."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained and how many are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters()) - trained


def count_multiply_adds(model: nn.Module, image_size: int) -> int:
    """Return the multiply-adds of one slice of ``image_size`` x ``image_size`` pixels."""
    parameter = next(model.parameters())
    context = 2 * int(model.slice_context)  # type: ignore[arg-type]
    chunk = torch.zeros(
        1, context + 1, image_size, image_size, device=parameter.device, dtype=parameter.dtype
    )
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter:
        model(chunk)
    return counter.get_total_flops() // 2
