"""Count a network's parameters and its multiply-adds per slice or patch, in whole and by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from samcancer.modeling.universal_net import UniversalNet

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

FLOPS_PER_MULTIPLY_ADD = 2
"""PyTorch counts a multiplication and an addition as two operations."""


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained and how many are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters()) - trained


def count_multiply_adds(model: nn.Module, image_size: int) -> int:
    """Return the multiply-adds of one slice of ``image_size`` x ``image_size`` pixels.

    Of a volume network, those of one of its patches. Convolutions, linear layers and matrix
    products count, fused attention included; element-wise work does not. The network may be on the
    meta device.
    """
    return _run_counter(model, image_size).get_total_flops() // FLOPS_PER_MULTIPLY_ADD


def count_multiply_adds_by_part(model: nn.Module, image_size: int) -> dict[str, int]:
    """Return the multiply-adds of one slice, or patch, for each direct part of the network."""
    counts = _run_counter(model, image_size).get_flop_counts()
    return {
        name: _below(part, f"{type(model).__name__}.{name}", counts) // FLOPS_PER_MULTIPLY_ADD
        for name, part in model.named_children()
    }


def _run_counter(model: nn.Module, image_size: int) -> FlopCounterMode:
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    parameter = next(model.parameters())
    if isinstance(model, UniversalNet):
        shape = model.patches.patch_size
    else:
        slices = 1 + 2 * int(model.slice_context)  # type: ignore[arg-type]
        shape = (slices, image_size, image_size)
    chunk = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False)
    # The counter's module tracker hooks the gradients of modules' inputs, so they must exist.
    with torch.enable_grad(), counter:
        model(chunk)
    return counter


def _below(module: nn.Module, name: str, counts: Mapping[str, Mapping[Any, int]]) -> int:
    """Operations of a module, or of its children where it is a container that is never called."""
    if name in counts:
        return sum(counts[name].values())
    return sum(_below(child, f"{name}.{key}", counts) for key, child in module.named_children())
