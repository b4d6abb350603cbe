"""Where a run computes: Lightning Fabric on CPU or GPU, one process per device.

The processes are started by ``train-fold --devices`` (samcancer.training.processes) or by torchrun;
Fabric joins what was started, over gloo on the CPU and NCCL on GPUs.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from samcancer.errors import InputError
from samcancer.training.losses import alone
from samcancer.training.processes import SILENCE_S, LostProcessError, launched_world

ACCELERATORS = ("auto", "cpu", "cuda")

_T = TypeVar("_T")


def start_fabric(
    *, accelerator: str = "auto", devices: int | None = None, precision: str
) -> Fabric:
    """Return Fabric, joined with the other processes of the training if there are any.

    Args:
        accelerator: ``auto`` takes a GPU when there is one.
        devices: Number of processes on this machine; None takes what was started.
        precision: Fabric's name.

    Raises:
        InputError: When there are fewer GPUs than processes, another number of processes was
            started, or the precision is unknown.
    """
    if accelerator not in ACCELERATORS:
        raise InputError(f"--accelerator must be one of {ACCELERATORS}, got {accelerator!r}")
    if devices is not None and devices < 1:
        raise InputError(f"--devices must be at least 1, got {devices}")
    world = launched_world()
    started = 1 if world is None else world.local_size
    asked = started if devices is None else devices
    gpus = torch.cuda.device_count()
    chosen = ("cuda" if gpus else "cpu") if accelerator == "auto" else accelerator
    if chosen == "cuda" and gpus < asked:
        raise InputError(
            f"{asked} GPUs asked for, {gpus} found",
            mend="start fewer processes or use --accelerator cpu",
        )
    if asked != started:
        raise InputError(
            f"--devices {asked}, but {started} processes were started on this machine",
            mend="leave out --devices under torchrun, or give it the number of --nproc-per-node",
        )
    several = world is not None and world.size > 1
    strategy: Any = "auto"
    if several:
        strategy = DDPStrategy(timeout=timedelta(seconds=SILENCE_S), **_no_buffers_in_steps())
        for name in ("lightning.fabric", "lightning.pytorch"):  # they tell of every rank
            logging.getLogger(name).setLevel(logging.WARNING)
    chosen_precision: Any = precision
    try:
        fabric = Fabric(
            accelerator=chosen,
            devices=started,
            num_nodes=1 if world is None else world.size // started,
            strategy=strategy,
            precision=chosen_precision,
            # named, since Fabric would take any Slurm job for one that started the processes
            plugins=[TorchElasticEnvironment() if several else LightningEnvironment()],
        )
    except ValueError as error:
        raise InputError(
            f"train.precision {precision!r} cannot be used ({str(error).splitlines()[0]})",
            mend="use 32-true, or bf16-mixed on a GPU",
        ) from None
    with explaining_lost_processes():
        fabric.launch()
    if not fabric.is_global_zero:
        logging.getLogger().setLevel(logging.CRITICAL)
    return fabric


def _no_buffers_in_steps() -> dict[str, Any]:
    """Return what keeps DDP from sending buffers at every step; they are alike everywhere.

    torch 2.15 calls the option otherwise and warns of the name before.
    """
    taken = inspect.signature(DistributedDataParallel.__init__).parameters
    new = "forward_sync_buffers"
    return {new if new in taken else "broadcast_buffers": False}


@contextlib.contextmanager
def explaining_lost_processes() -> Iterator[None]:
    """Turn what gloo and NCCL say when a process is gone into one line.

    Raises:
        LostProcessError: When another process of the training does not answer any more.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise LostProcessError(
            "another process of this training is gone or silent "
            f"({str(error).splitlines()[0].split('] ')[-1]})",
            mend="see its own message; the same command with --resume goes on from the last "
            "finished epoch",
        ) from error


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
        raise outcome
    return outcome  # type: ignore[no-any-return]


def summed(fabric: Fabric) -> Callable[[Tensor], Tensor]:
    """Return what adds up a tensor without gradient over the processes, on its device."""

    def add_up(tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    return add_up if fabric.world_size > 1 else alone


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


def in_order(shares: list[list[_T]]) -> list[_T]:
    """Return the items that every ``len(shares)``-th process had, in the order before that."""
    longest = max(map(len, shares), default=0)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
