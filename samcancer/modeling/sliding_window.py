"""Volume networks over a whole case: overlapping patches, stitched and put back onto its slices.

The slices are resampled to the network's spacing, cut into patches that overlap, and the logits of
the patches averaged with Gaussian weights ([UM] section 4, [LV]: overlap 0.1 to 0.5). Patches run
from feet to head; a plane that no later patch reaches is finished, put back onto the slices and
let go, so that the memory is one layer of patches however long the scan is, not classes x volume.

Presence of a class in a slice is its largest probability there: such a network has no other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcancer.config import SLICE_CONTEXT, WindowHu
from samcancer.inplane import AIR_HU
from samcancer.modeling.chunks import SliceSource
from samcancer.modeling.slice_prediction import SlicePrediction, halved_on_full_gpu
from samcancer.modeling.universal_net import UniversalNet
from samcancer.resampling import Axis, VolumeGrid, volume_grid
from samcancer.windowing import window

_SIGMA = 0.125
"""Of the Gaussian weights, in patches ([UM] and nnU-Net)."""

_LEAST_WEIGHT = 1e-3
"""Of a patch's corner, against 1 in its centre."""

_LAYER_COPIES = 3
"""Of a layer's logits: added up, moved on, and waiting for the slices that need them."""

_SLICES_AT_ONCE = 8
"""Slices that are put together at once."""


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How a volume network is run."""

    voxel_mm: tuple[float, float, float]
    """Distance of slices, rows and columns."""
    window_hu: WindowHu
    device: torch.device
    stitch_device: torch.device
    """Where the logits of overlapping patches are added up."""
    overlap: float
    """Share of a patch that the next one covers again."""
    autocast: AbstractContextManager[Any]
    """In which the network computes."""
    batch: int = 1
    """Patches at once; halved on a full GPU until they fit."""
    flip: bool = False
    """Average with the logits of the left-right mirrored patch."""
    other_sides: Sequence[int] | None = None
    """For each class the one that it is in a mirror; None when no class has a side."""
    skip_air: bool = True
    """Ask the network once for all patches of air."""


def predict_windows(
    model: UniversalNet, slices_hu: NDArray[np.int16] | SliceSource, options: WindowOptions
) -> Iterator[SlicePrediction]:
    """Yield the network's prediction for every slice of a case, in order.

    Args:
        model: On its device, in evaluation mode.
        slices_hu: (Z + 4, S, S) padded slices.
        options: How to run.
    """
    depth, *side = slices_hu.shape
    grid = volume_grid(
        (depth - 2 * SLICE_CONTEXT, *side),
        voxel_mm=options.voxel_mm,
        target_mm=model.patches.spacing_mm,
    )
    run = _Run(model, slices_hu, options, grid)
    backward = grid.slices.backward()
    row, column = (
        torch.from_numpy(axis.backward().copy()).to(options.stitch_device)
        for axis in (grid.rows, grid.columns)
    )
    planes: list[Tensor] = []
    first_plane, start = 0, 0
    for finished in run.layers():
        planes.extend(finished.unbind(1))
        done = first_plane + len(planes)
        while start < len(backward):
            stop = _ready(backward, start, done)
            if stop == start:
                break
            needed = np.flatnonzero(backward[start:stop].any(axis=0))
            low, high = int(needed[0]), int(needed[-1]) + 1
            weights = torch.from_numpy(backward[start:stop, low:high].copy()).to(
                options.stitch_device
            )
            stacked = torch.stack(planes[low - first_plane : high - first_plane], dim=1)
            along_z = torch.einsum("nz,kzhw->nkhw", weights, stacked)
            logits = (row @ along_z @ column.T).to(options.device)
            yield SlicePrediction(start, logits, torch.sigmoid(logits.amax(dim=(-2, -1))))
            del planes[: low - first_plane]
            first_plane, start = low, stop


def layer_bytes(model: UniversalNet, shape: Sequence[int], voxel_mm: Sequence[float]) -> int:
    """Return about how much memory a layer of patches takes while it is stitched, in bytes.

    Args:
        model: The network.
        shape: (Z, S, S) of the case's slices.
        voxel_mm: Distance of slices, rows and columns.
    """
    grid = volume_grid(shape, voxel_mm=voxel_mm, target_mm=model.patches.spacing_mm)
    plane = grid.rows.size * grid.columns.size
    depth = model.patches.patch_size[0]
    read = math.ceil(depth * model.patches.spacing_mm[0] / voxel_mm[0]) + depth
    return 4 * plane * (_LAYER_COPIES * depth * len(model.class_names) + read)


def window_starts(size: int, length: int, overlap: float) -> list[int]:
    """Return where the patches of an axis begin; one that is longer than the axis lies about it."""
    if size <= length:
        return [-((length - size) // 2)]
    step = max(1, round(length * (1 - overlap)))
    return [min(start, size - length) for start in range(0, size - length + step, step)]


def window_weights(length: int) -> NDArray[np.float32]:
    """Return the weights of a patch along one axis."""
    distance = (np.arange(length) - (length - 1) / 2) / (_SIGMA * length)
    weights: NDArray[np.float32] = np.maximum(np.exp(-0.5 * distance**2), _LEAST_WEIGHT).astype(
        np.float32
    )
    return weights


def _ready(backward: NDArray[np.float32], start: int, planes: int) -> int:
    """Return how far from ``start`` on the slices need only the first ``planes`` planes."""
    stop = start
    while stop < min(len(backward), start + _SLICES_AT_ONCE) and not backward[stop, planes:].any():
        stop += 1
    return stop


class _Patch(NamedTuple):
    """Where a patch lies in its layer; may reach outside."""

    row: int
    column: int


@dataclass
class _Run:
    """One case."""

    model: UniversalNet
    slices_hu: NDArray[np.int16] | SliceSource
    options: WindowOptions
    grid: VolumeGrid

    def __post_init__(self) -> None:
        """Start with nothing read."""
        self._in_plane: dict[int, Tensor] = {}
        self._batch = self.options.batch

    def layers(self) -> Iterator[Tensor]:
        """Yield finished planes (K, n, H', W') from feet to head."""
        depth, height, width = self.model.patches.patch_size
        starts = window_starts(self.grid.slices.size, depth, self.options.overlap)
        norm = _sum_of_weights(self.grid.slices.size, starts, depth)
        shape = (len(self.model.class_names), depth, self.grid.rows.size, self.grid.columns.size)
        place = self.options.stitch_device
        total = torch.zeros(shape, device=place)
        in_plane = torch.outer(
            *(
                _sum_of_weights(axis.size, self._starts(axis, length), length).to(place)
                for axis, length in ((self.grid.rows, height), (self.grid.columns, width))
            )
        )
        for start, following in itertools.pairwise([*starts, self.grid.slices.size]):
            self._add_layer(start, total)
            first, stop = max(start, 0), min(max(following, 0), start + depth)
            ready = total[:, first - start : stop - start]
            yield ready / (norm[first:stop, None, None].to(place) * in_plane)
            moved = stop - start
            total = torch.cat([total[:, moved:], torch.zeros_like(total[:, :moved])], dim=1)

    def _starts(self, axis: Axis, length: int) -> list[int]:
        return window_starts(axis.size, length, self.options.overlap)

    def _add_layer(self, start: int, total: Tensor) -> None:
        """Add the weighted logits of all patches of a layer."""
        _, height, width = self.model.patches.patch_size
        layer = self._layer(start)
        patches = [
            _Patch(row, column)
            for row in self._starts(self.grid.rows, height)
            for column in self._starts(self.grid.columns, width)
        ]
        asked: list[tuple[_Patch, Tensor]] = []
        for patch in patches:
            grey = _cut(layer, patch, height, width)
            if self.options.skip_air and not grey.any():
                self._add(total, patch, self._weighted_air)
            else:
                asked.append((patch, grey))
        while asked:
            now = asked[: self._batch]
            try:
                logits = self._logits(torch.stack([grey for _, grey in now]))
            except torch.OutOfMemoryError:
                self._batch = halved_on_full_gpu(len(now), "patch")
                continue
            for (patch, _), found in zip(now, logits, strict=True):
                self._add(total, patch, found.to(total.device) * self._weight)
            asked = asked[len(now) :]

    def _add(self, total: Tensor, patch: _Patch, weighted: Tensor) -> None:
        """Add a patch's part inside the volume."""
        height, width = total.shape[2:]
        rows, columns = (
            slice(max(start, 0), min(start + length, size))
            for start, length, size in zip(patch, weighted.shape[2:], (height, width), strict=True)
        )
        total[:, :, rows, columns] += weighted[
            :,
            :,
            rows.start - patch.row : rows.stop - patch.row,
            columns.start - patch.column : columns.stop - patch.column,
        ]

    def _logits(self, grey: Tensor) -> Tensor:
        """Return (n, K, D, h, w) logits of patches (n, D, h, w)."""
        with torch.inference_mode(), self.options.autocast:
            logits: Tensor = self.model(grey).mask_logits.transpose(1, 2).float()
            if self.options.flip:
                mirrored: Tensor = self.model(grey.flip(-1)).mask_logits.transpose(1, 2)
                if self.options.other_sides is not None:
                    mirrored = mirrored[:, list(self.options.other_sides)]
                logits = (logits + mirrored.float().flip(-1)) / 2
        return logits

    @cached_property
    def _weight(self) -> Tensor:
        """(D, h, w) weights of a patch."""
        depth, height, width = (
            torch.from_numpy(window_weights(length)).to(self.options.stitch_device)
            for length in self.model.patches.patch_size
        )
        return depth[:, None, None] * height[:, None] * width

    @cached_property
    def _weighted_air(self) -> Tensor:
        """(K, D, h, w) weighted logits of a patch of air."""
        shape = (1, *self.model.patches.patch_size)
        logits = self._logits(torch.zeros(shape, device=self.options.device))[0]
        return logits.to(self.options.stitch_device) * self._weight

    def _layer(self, start: int) -> Tensor:
        """Return planes ``start`` to ``start + D`` (D, H', W') in [0, 1]; air outside."""
        depth = self.model.patches.patch_size[0]
        first, stop = max(start, 0), min(start + depth, self.grid.slices.size)
        weights = self.grid.slices.forward()[first:stop]
        touched = np.flatnonzero(weights.any(axis=0))
        low, high = int(touched[0]), int(touched[-1]) + 1
        planes = torch.tensordot(
            torch.from_numpy(weights[:, low:high].copy()).to(self.options.device),
            self._resized(low, high),
            dims=1,
        )
        grey = window(planes + AIR_HU, self.options.window_hu)
        return _padded(grey, first - start, start + depth - stop)

    def _resized(self, start: int, stop: int) -> Tensor:
        """Return slices resampled in plane (n, H', W'), in HU above air; each is read once."""
        kept = {z: plane for z, plane in self._in_plane.items() if start <= z < stop}
        first_new = max(kept, default=start - 1) + 1
        if first_new < stop:
            found: Any = self.slices_hu[first_new + SLICE_CONTEXT : stop + SLICE_CONTEXT]
            block = found if isinstance(found, Tensor) else torch.from_numpy(found)
            row, column = self._in_plane_matrices
            planes = row @ (block.to(self.options.device).float() - AIR_HU) @ column.T
            kept |= dict(zip(range(first_new, stop), planes, strict=True))
        self._in_plane = kept
        return torch.stack([kept[z] for z in range(start, stop)])

    @cached_property
    def _in_plane_matrices(self) -> tuple[Tensor, Tensor]:
        row, column = (
            torch.from_numpy(axis.forward().copy()).to(self.options.device)
            for axis in (self.grid.rows, self.grid.columns)
        )
        return row, column


def _sum_of_weights(size: int, starts: Sequence[int], length: int) -> Tensor:
    """Return (size,) the weights of all patches along an axis, added up."""
    total = np.zeros(size, dtype=np.float32)
    weights = window_weights(length)
    for start in starts:
        first, stop = max(start, 0), min(start + length, size)
        total[first:stop] += weights[first - start : stop - start]
    return torch.from_numpy(total)


def _cut(layer: Tensor, patch: _Patch, height: int, width: int) -> Tensor:
    """Return (D, height, width) of a layer (D, H', W'); what lies outside is air."""
    rows, columns = layer.shape[1:]
    top, left = max(patch.row, 0), max(patch.column, 0)
    bottom, right = min(patch.row + height, rows), min(patch.column + width, columns)
    inside = layer[:, top:bottom, left:right]
    margins = (
        left - patch.column,
        patch.column + width - right,
        top - patch.row,
        patch.row + height - bottom,
    )
    return torch.nn.functional.pad(inside, margins) if any(margins) else inside


def _padded(planes: Tensor, before: int, after: int) -> Tensor:
    if not before and not after:
        return planes
    return torch.nn.functional.pad(planes, (0, 0, 0, 0, before, after))
