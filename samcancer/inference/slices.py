"""A scan's slices on the stack grid, resized only when the network asks for them.

Arrays are (slice, row, column) in canonical orientation. Padded slice z + 2 is slice z of the scan;
the end slices are repeated twice, as in the case store. For a GPU the slices are resized there, by
dense products in place of sparse ones: the same to a rounding of 1 HU.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcancer.config import SLICE_CONTEXT
from samcancer.geometry import Geometry
from samcancer.inplane import AIR_HU, InPlaneGrid, in_plane_grid, resize_slices


def grid_of(canonical_geometry: Geometry, size: int) -> InPlaneGrid:
    """Return the in-plane grid of a canonical scan, for stacks of ``size`` pixels."""
    return in_plane_grid(canonical_geometry, size)


class ResizedSlices:
    """Padded slices (Z + 4, S, S) int16; each slice is resized once when read in order."""

    def __init__(
        self,
        volume_hu: NDArray[np.int16],
        grid: InPlaneGrid,
        *,
        on_device: str | None = None,
        kept: range | None = None,
    ) -> None:
        """Take the scan.

        Args:
            volume_hu: (Z, rows, columns), Z >= 1; may be a strided view, is never copied whole.
            grid: Its in-plane grid.
            on_device: Resize there; None resizes on the host.
            kept: Slices to give, padded by their own neighbours in the scan; None gives all.
        """
        self._volume_hu = volume_hu
        self._grid = grid
        self._kept = range(len(volume_hu)) if kept is None else kept
        self._device = on_device
        self._matrices: list[Tensor] = []
        if on_device is not None:
            matrices = grid.image_matrices()
            self._matrices = [torch.from_numpy(m.copy()).to(on_device) for m in matrices]
        self._recent: dict[int, Tensor] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z + 4, S, S), Z slices kept."""
        return (len(self._kept) + 2 * SLICE_CONTEXT, self._grid.size, self._grid.size)

    def __getitem__(self, index: slice, /) -> Tensor:
        """Return the padded slices of a contiguous range."""
        padded = range(*index.indices(self.shape[0]))
        first, last = self._kept.start - SLICE_CONTEXT, len(self._volume_hu) - 1
        wanted = [min(max(first + p, 0), last) for p in padded]
        recent = {z: self._recent[z] for z in wanted if z in self._recent}
        new = [z for z in dict.fromkeys(wanted) if z not in recent]
        if new:
            resized = self._resized(self._volume_hu[new[0] : new[-1] + 1])
            recent |= dict(zip(range(new[0], new[-1] + 1), resized, strict=True))
        self._recent = recent
        return torch.stack([recent[z] for z in wanted])

    def _resized(self, slices_hu: NDArray[np.int16]) -> Tensor:
        if self._device is None:
            return torch.from_numpy(resize_slices(slices_hu, self._grid))
        row, column = self._matrices
        host = torch.from_numpy(np.ascontiguousarray(slices_hu))
        if row.is_cuda:
            host = host.pin_memory()
        above_air = host.to(self._device, non_blocking=True).float() - AIR_HU
        whole = row @ above_air @ column.T + AIR_HU
        return whole.round().clamp(-32768, 32767).short()
