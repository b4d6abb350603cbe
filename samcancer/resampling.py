"""Resampling along one axis as a matrix: samples of one spacing from samples of another.

Two grids cover the same stretch about the same centre, ``count`` samples of the source and ``size``
of the target; ``scale`` is the target's spacing in source samples. Downsampling is antialiased with
a triangle filter as wide as the larger sample, upsampling is linear, and the end samples are
repeated outwards. Each row of a matrix sums to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEGLIGIBLE = 1e-6
"""Weights, and differences in samples, below this are rounding errors."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """An axis of a volume and the spacing it is resampled to."""

    count: int
    """Samples of the source."""
    spacing_mm: float
    target_mm: float

    @property
    def size(self) -> int:
        """Samples of the target; at least one."""
        return max(1, round(self.count * self.spacing_mm / self.target_mm))

    def forward(self) -> FloatArray:
        """Return (size, count): target samples from source samples."""
        return _forward_matrix(self.count, self.size, self._scale)

    def backward(self) -> FloatArray:
        """Return (count, size): source samples from target samples."""
        return backward_matrix(self.count, self.size, self._scale)

    def nearest(self) -> NDArray[np.intp]:
        """Return (size,) the source sample that each target sample lies in, for labels."""
        edges = target_edges(self.count, self.size, self._scale)
        centres = (edges[:-1] + edges[1:]) / 2
        return np.clip(np.floor(centres + NEGLIGIBLE), 0, self.count - 1).astype(np.intp)

    def place(self, index: float) -> float:
        """Return where a source sample lies, in target samples; centres are whole numbers."""
        return (index + 0.5 - self.count / 2) / self._scale + self.size / 2 - 0.5

    @property
    def _scale(self) -> float:
        return self.target_mm / self.spacing_mm


class VolumeGrid(NamedTuple):
    """The slices, rows and columns of a volume and the spacing they are resampled to."""

    slices: Axis
    rows: Axis
    columns: Axis

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the resampled volume."""
        return self.slices.size, self.rows.size, self.columns.size


def volume_grid(
    shape: Sequence[int], *, voxel_mm: Sequence[float], target_mm: Sequence[float]
) -> VolumeGrid:
    """Return the grid of a (slices, rows, columns) volume; spacings in the same order."""
    return VolumeGrid(*map(Axis, shape, voxel_mm, target_mm))


def target_edges(count: int, size: int, scale: float) -> NDArray[np.float64]:
    """Return the size + 1 edges of the target's samples, where the source's are 0..count."""
    steps = np.arange(size + 1, dtype=np.float64) - size / 2
    return count / 2 + steps * np.float64(scale)


@lru_cache(maxsize=64)
def backward_matrix(count: int, size: int, scale: float) -> FloatArray:
    """Return (count, size): source samples from target samples."""
    first_edge = target_edges(count, size, scale)[0]
    centres = (np.arange(count) + 0.5 - first_edge) / scale
    return read_only(triangle_weights(centres, size, max(1.0, 1 / scale)))


@lru_cache(maxsize=64)
def _forward_matrix(count: int, size: int, scale: float) -> FloatArray:
    edges = target_edges(count, size, scale)
    return read_only(triangle_weights((edges[:-1] + edges[1:]) / 2, count, max(1.0, scale)))


def triangle_weights(
    centres: NDArray[np.float64], count: int, half_width: float
) -> NDArray[np.float64]:
    """Return (outputs, count) triangle weights, with the end samples repeated outwards."""
    reach = int(np.ceil(half_width)) + 1
    positions = np.arange(-reach, count + reach)
    distance = np.abs(positions + 0.5 - np.clip(centres, 0, count)[:, None])
    weights = np.maximum(0, 1 - distance / half_width)
    weights[weights < NEGLIGIBLE] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    folded: NDArray[np.float64] = weights[:, reach:-reach].copy()
    folded[:, 0] += weights[:, :reach].sum(axis=1)
    folded[:, -1] += weights[:, -reach:].sum(axis=1)
    return folded


def read_only(matrix: NDArray[np.float64]) -> FloatArray:
    """Return a float32 copy that cannot be written, to be shared."""
    result = np.ascontiguousarray(matrix, np.float32)
    result.setflags(write=False)
    return result
