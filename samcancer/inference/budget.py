"""What a scan takes in memory, and the slices a chunk may have within a budget.

On a GPU a budget is about the device: the networks' weights and one chunk. On a CPU it is about
everything a scan adds to the running program: weights, scan, label maps and one chunk. The read,
checked and written files take up to twice the scan on top for a moment, in host memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from samcancer.errors import InputError
from samcancer.modeling.fusion import Predictor
from samcancer.modeling.predict import ensembles_at_once
from samcancer.modeling.slice_prediction import Member
from samcancer.modeling.sliding_window import layer_bytes
from samcancer.modeling.universal_net import UniversalNet

DEFAULT_BATCH = {"cpu": 8, "cuda": 16}
"""Slices per chunk where nothing else is said."""

PATCHES_AT_ONCE = {"cpu": 1, "cuda": 4}
"""Of a volume network, where nothing else is said."""

MAX_BATCH = 64
"""Longer chunks save nothing any more."""

_MAP_BYTES_PER_PIXEL = 36
"""Working memory of putting a chunk's logits, and how far networks agree, onto the scan's pixels,
per slice."""

_WAITING_COPIES = 2
"""Of a chunk's logits, kept by each of several streams until the others have the same slices."""

_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})", re.IGNORECASE)


class MemoryNeed(NamedTuple):
    """Bytes that segmenting one scan takes."""

    fixed: int
    """Whatever the length of a chunk."""
    per_slice: int
    """More for every target slice of a chunk."""

    def of(self, batch: int) -> int:
        """Return the bytes with ``batch`` slices a chunk."""
        return self.fixed + batch * self.per_slice


def parse_bytes(text: str) -> int:
    """Return the bytes of "4GB" or "512 MiB".

    Raises:
        InputError: When it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a size", mend="write it like 4GB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def memory_need(
    members: Sequence[Predictor],
    shape: Sequence[int],
    *,
    size: int,
    class_count: int,
    label_maps: int,
    views: int,
    device: str,
    voxel_mm: Sequence[float],
    patches_at_once: int = 1,
) -> MemoryNeed:
    """Return what a scan needs on a device.

    Args:
        members: The networks and fusions.
        shape: (Z, rows, columns) of the scan.
        size: In-plane size S of the networks.
        class_count: K.
        label_maps: uint8 maps that are filled.
        views: Times a chunk is looked at by each network: 2 with mirroring.
        device: ``cpu`` or ``cuda``.
        voxel_mm: Distance of the resized slices, their rows and columns, for volume networks.
        patches_at_once: Of a volume network.
    """
    slices, rows, columns = shape
    ensembles = ensembles_at_once(members)
    weights = sum(_weight_bytes(member) for ensemble in ensembles for member in ensemble)
    scan = 0 if device == "cuda" else slices * rows * columns * (2 + label_maps)
    working = max(_largest(ensemble, "slice_bytes") for ensemble in ensembles)
    held = max((len(e) * views - 1) * _largest(e, "look_bytes") for e in ensembles)
    copies = sum(2 if len(ensemble) * views > 1 else 1 for ensemble in ensembles)
    copies += sum(len(ensemble) > 1 for ensemble in ensembles)  # how far they agree
    if len(ensembles) > 1:
        copies += _WAITING_COPIES * len(ensembles) + 1
    logits = 4 * size * size * class_count * copies
    on_grid = rows * columns * _MAP_BYTES_PER_PIXEL
    windows = [
        layer_bytes(m.model, (slices, size, size), voxel_mm) + patches_at_once * m.model.patch_bytes
        for ensemble in ensembles
        for m in ensemble
        if isinstance(m.model, UniversalNet)
    ]
    return MemoryNeed(weights + scan + sum(windows), working + held + logits + on_grid)


def plan_batch(need: MemoryNeed, *, budget_bytes: int | None, device: str) -> int:
    """Return the slices per chunk.

    Raises:
        InputError: When the budget is too small for a single slice.
    """
    if budget_bytes is None:
        return DEFAULT_BATCH[device]
    fitting = (budget_bytes - need.fixed) // max(need.per_slice, 1)
    if fitting < 1:
        least_mb = math.ceil(need.of(1) / 1e6)
        raise InputError(
            f"a budget of {budget_bytes / 1e6:.0f} MB is too small for this scan and model",
            mend=f"allow at least --budget {least_mb}MB",
        )
    return min(fitting, MAX_BATCH)


def cap_gpu_memory(budget_bytes: int) -> None:
    """Let this process have no more than so much of the GPU's memory; torch refuses beyond."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget_bytes / total))


def _largest(ensemble: Sequence[Member], name: str) -> int:
    nets: list[Any] = [member.model for member in ensemble]
    return max(int(getattr(net, name, 0)) for net in nets)


def _weight_bytes(member: Member) -> int:
    tensors = [*member.model.parameters(), *member.model.buffers()]
    return sum(tensor.nbytes for tensor in tensors)
