"""A scan's slices on the stack grid, resized only when the network asks for them.

Arrays are (slice, row, column) in canonical orientation. Padded slice z + 2 is slice z of the scan;
the end slices are repeated twice, as in the case store.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samcancer.config import SLICE_CONTEXT
from samcancer.geometry import Geometry
from samcancer.inplane import InPlaneGrid, resize_slices


def grid_of(canonical_geometry: Geometry, size: int) -> InPlaneGrid:
    """Return the in-plane grid of a canonical scan, for stacks of ``size`` pixels."""
    _, rows, columns = canonical_geometry.shape
    column_spacing_mm, row_spacing_mm, _ = canonical_geometry.spacing_mm
    return InPlaneGrid(
        rows=rows,
        columns=columns,
        row_spacing_mm=row_spacing_mm,
        column_spacing_mm=column_spacing_mm,
        size=size,
    )


class ResizedSlices:
    """Padded slices (Z + 4, S, S) int16; each slice is resized once when read in order."""

    def __init__(self, volume_hu: NDArray[np.int16], grid: InPlaneGrid) -> None:
        """Take the scan.

        Args:
            volume_hu: (Z, rows, columns), Z >= 1; may be a strided view, is never copied whole.
            grid: Its in-plane grid.
        """
        self._volume_hu = volume_hu
        self._grid = grid
        self._recent: dict[int, NDArray[np.int16]] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z + 4, S, S)."""
        return (len(self._volume_hu) + 2 * SLICE_CONTEXT, self._grid.size, self._grid.size)

    def __getitem__(self, index: slice, /) -> NDArray[np.int16]:
        """Return the padded slices of a contiguous range."""
        padded = range(*index.indices(self.shape[0]))
        wanted = [min(max(p - SLICE_CONTEXT, 0), len(self._volume_hu) - 1) for p in padded]
        self._recent = {
            z: self._recent[z] if z in self._recent else self._resized(z)
            for z in dict.fromkeys(wanted)
        }
        return np.stack([self._recent[z] for z in wanted])

    def _resized(self, z: int) -> NDArray[np.int16]:
        resized: NDArray[np.int16] = resize_slices(self._volume_hu[z : z + 1], self._grid)[0]
        return resized
