"""Where a run computes: Lightning Fabric on CPU or GPU, one process per device.

With several devices Fabric starts the same command again for each further one (its ``ddp``
strategy), so everything before :func:`start_fabric` must be safe to run more than once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from samcancer.errors import InputError

ACCELERATORS = ("auto", "cpu", "cuda")

_T = TypeVar("_T")


def start_fabric(*, accelerator: str = "auto", devices: int = 1, precision: str) -> Fabric:
    """Return Fabric, launched: from here on there is one process per device.

    Args:
        accelerator: ``auto`` takes a GPU when there is one.
        devices: Number of GPUs, or of processes on the CPU.
        precision: Fabric's name.

    Raises:
        InputError: When there are fewer GPUs than asked for, or the precision is unknown.
    """
    if accelerator not in ACCELERATORS:
        raise InputError(f"--accelerator must be one of {ACCELERATORS}, got {accelerator!r}")
    if devices < 1:
        raise InputError(f"--devices must be at least 1, got {devices}")
    gpus = torch.cuda.device_count()
    chosen = ("cuda" if gpus else "cpu") if accelerator == "auto" else accelerator
    if chosen == "cuda" and gpus < devices:
        raise InputError(
            f"{devices} GPUs asked for, {gpus} found",
            mend="lower --devices or use --accelerator cpu",
        )
    # buffers are constants here; sharing them at every step would only cost time
    strategy: Any = DDPStrategy(broadcast_buffers=False) if devices > 1 else "auto"
    chosen_precision: Any = precision
    try:
        fabric = Fabric(
            accelerator=chosen, devices=devices, strategy=strategy, precision=chosen_precision
        )
    except ValueError as error:
        raise InputError(
            f"train.precision {precision!r} cannot be used ({str(error).splitlines()[0]})",
            mend="use 32-true, or bf16-mixed on a GPU",
        ) from None
    fabric.launch()
    if not fabric.is_global_zero:
        logging.getLogger().setLevel(logging.CRITICAL)
    return fabric


def on_rank_zero(fabric: Fabric, action: Callable[[], _T]) -> _T:
    """Run the action in the first process and give its result, or its InputError, to all."""
    outcome: Any = None
    if fabric.is_global_zero:
        try:
            outcome = action()
        except InputError as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, InputError):
        if not fabric.is_global_zero:
            sys.exit(2)  # the first process says why
        raise outcome
    return outcome  # type: ignore[no-any-return]


def largest(fabric: Fabric, values: list[float]) -> list[float]:
    """Return, element by element, the largest value of all processes."""
    if fabric.world_size == 1:
        return values
    # float32 on the device: not every GPU backend sums doubles
    tensor = torch.tensor(values, device=fabric.device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return [float(value) for value in tensor.tolist()]


def gathered(fabric: Fabric, value: _T) -> list[_T]:
    """Return the value of every process, in the order of their ranks."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values
