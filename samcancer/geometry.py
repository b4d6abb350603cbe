"""Where voxels lie in the patient: grids, canonical orientation and its exact inverse.

Conventions are ITK's: millimetres in LPS (x to the patient's left, y to posterior, z to superior),
sizes and spacings in (x, y, z) order, ``direction`` a row-major 3 x 3 matrix whose columns are the
directions of the voxel axes. Arrays are (slice, row, column) = (z, y, x). In canonical orientation
the axes of the array run to superior, posterior and left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError

SAME_GRID_TOLERANCE_MM = 1e-2
"""Largest distance between corners of two grids that count as the same."""

SAME_GRID_TOLERANCE_VOXELS = 1e-2
"""The same in units of the smallest spacing; the smaller of the two applies."""

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest entry of D'D - 1 of a direction matrix D."""

_Scalar = TypeVar("_Scalar", bound=np.generic)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume."""

    size_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    """In (x, y, z) order."""
    origin_mm: tuple[float, float, float]
    """Centre of the first voxel, LPS."""
    direction: tuple[float, ...]
    """Nine numbers, row-major; column j is the direction of voxel axis j."""

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        if len(self.size_xyz) != 3 or min(self.size_xyz) < 1:
            raise ValueError(f"size must be three positive numbers, got {self.size_xyz}")
        if len(self.spacing_mm) != 3 or not all(0 < v < math.inf for v in self.spacing_mm):
            raise ValueError(f"spacing must be three positive numbers, got {self.spacing_mm}")
        if len(self.origin_mm) != 3 or not all(map(math.isfinite, self.origin_mm)):
            raise ValueError(f"origin must be three finite numbers, got {self.origin_mm}")
        if len(self.direction) != 9 or not all(map(math.isfinite, self.direction)):
            raise ValueError(f"direction must be nine finite numbers, got {self.direction}")
        if _skewness(self.direction) > ORTHONORMAL_TOLERANCE:
            raise ValueError(f"direction must be orthonormal, got {self.direction}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (slices, rows, columns) of the volume's array."""
        x, y, z = self.size_xyz
        return (z, y, x)

    @property
    def slice_spacing_mm(self) -> float:
        """Distance between slices."""
        return self.spacing_mm[2]

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def axes_mm(self) -> NDArray[np.float64]:
        """(3, 3): column j is one step along voxel axis j, in mm."""
        return self.direction_matrix * np.asarray(self.spacing_mm, dtype=np.float64)

    @property
    def direction_matrix(self) -> NDArray[np.float64]:
        """(3, 3) form of ``direction``."""
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3)

    def position_mm(self, index_xyz: NDArray[Any]) -> NDArray[np.float64]:
        """Voxel indices (..., 3) in xyz order to positions (..., 3) in mm."""
        offsets: NDArray[np.float64] = np.asarray(index_xyz, dtype=np.float64) @ self.axes_mm.T
        return offsets + np.asarray(self.origin_mm, dtype=np.float64)

    def index_xyz(self, position_mm: NDArray[Any]) -> NDArray[np.float64]:
        """Positions (..., 3) in mm to voxel indices (..., 3) in xyz order, with fractions."""
        offsets = np.asarray(position_mm, dtype=np.float64) - np.asarray(self.origin_mm)
        indices: NDArray[np.float64] = offsets @ np.linalg.inv(self.axes_mm).T
        return indices

    def corners_mm(self) -> NDArray[np.float64]:
        """Positions (8, 3) of the centres of the corner voxels."""
        last = [size - 1 for size in self.size_xyz]
        return self.position_mm(np.array(list(product(*((0, end) for end in last)))))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe form."""
        return {
            "size_xyz": list(self.size_xyz),
            "spacing_mm": list(self.spacing_mm),
            "origin_mm": list(self.origin_mm),
            "direction": list(self.direction),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Geometry:
        """Rebuild from :meth:`to_dict`'s form."""
        x, y, z = (int(v) for v in content["size_xyz"])
        sx, sy, sz = (float(v) for v in content["spacing_mm"])
        ox, oy, oz = (float(v) for v in content["origin_mm"])
        direction = tuple(float(v) for v in content["direction"])
        return cls((x, y, z), (sx, sy, sz), (ox, oy, oz), direction)


@dataclass(frozen=True)
class Reorientation:
    """How :func:`canonicalise` turned an array; what :func:`restore` needs to turn it back."""

    axes: tuple[int, int, int]
    """Canonical array axis i was source array axis axes[i]."""
    flips: tuple[bool, bool, bool]
    """Whether canonical axis i runs against the source axis."""


def canonicalise(
    array: NDArray[_Scalar], geometry: Geometry
) -> tuple[NDArray[_Scalar], Geometry, Reorientation]:
    """Turn a volume by axis swaps and flips until its axes run to superior, posterior and left.

    Args:
        array: (Z, Y, X) as stored.
        geometry: Its grid.

    Returns:
        A view of the array, the grid of that view, and what undoes the turn.
    """
    if array.shape != geometry.shape:
        msg = f"array of shape {array.shape} on a grid of shape {geometry.shape}"
        raise ValueError(msg)
    turned, reorientation = canonical_grid(geometry)
    view = array.transpose(reorientation.axes)[_steps(reorientation.flips)]
    return view, turned, reorientation


def canonical_grid(geometry: Geometry) -> tuple[Geometry, Reorientation]:
    """Return the grid that :func:`canonicalise` turns a volume to, and what undoes the turn."""
    matrix = geometry.direction_matrix
    axis_of = _nearest_axes(matrix)
    flip = [bool(matrix[world, axis_of[world]] < 0) for world in range(3)]
    size, spacing = geometry.size_xyz, geometry.spacing_mm
    first = [0, 0, 0]
    for world in range(3):
        if flip[world]:
            first[axis_of[world]] = size[axis_of[world]] - 1
    signs = np.where(flip, -1.0, 1.0)
    turned = Geometry(
        _triple(int(size[a]) for a in axis_of),
        _triple(float(spacing[a]) for a in axis_of),
        _triple(float(v) for v in geometry.position_mm(np.array(first))),
        tuple(float(v) for v in (matrix[:, axis_of] * signs).ravel()),
    )
    reorientation = Reorientation(
        axes=_triple(2 - axis_of[2 - i] for i in range(3)), flips=_triple(flip[::-1])
    )
    return turned, reorientation


def restore(array: NDArray[_Scalar], reorientation: Reorientation) -> NDArray[_Scalar]:
    """Undo :func:`canonicalise`: a canonical (Z, Y, X) array to a view as stored."""
    inverse = np.argsort(reorientation.axes)
    return array[_steps(reorientation.flips)].transpose(inverse)


def require_same_grid(
    image: Geometry, label: Geometry, *, image_path: Path, label_path: Path
) -> None:
    """Refuse a label map that does not lie on its image's grid.

    Raises:
        InputError: When the sizes differ, or corners lie further apart than the tolerances.
    """
    mend = f"resample it onto the grid of {image_path.name}"
    if image.size_xyz != label.size_xyz:
        raise InputError(
            f"its size {label.size_xyz} differs from the image's {image.size_xyz}",
            path=label_path,
            mend=mend,
        )
    apart_mm = float(np.abs(image.corners_mm() - label.corners_mm()).max())
    allowed_mm = min(SAME_GRID_TOLERANCE_MM, SAME_GRID_TOLERANCE_VOXELS * min(image.spacing_mm))
    if not apart_mm <= allowed_mm:
        raise InputError(
            f"its corners lie up to {apart_mm:.4g} mm from the image's (allowed {allowed_mm:.2g})",
            path=label_path,
            mend=mend,
        )


def _skewness(direction: tuple[float, ...]) -> float:
    """Return by how much axes differ from orthonormal ones; 3 x 3 is too small for NumPy."""
    a, b, c, d, e, f, g, h, i = direction
    return max(
        abs(a * a + d * d + g * g - 1),
        abs(b * b + e * e + h * h - 1),
        abs(c * c + f * f + i * i - 1),
        abs(a * b + d * e + g * h),
        abs(a * c + d * f + g * i),
        abs(b * c + e * f + h * i),
    )


def _nearest_axes(matrix: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each world axis the voxel axis closest to it; the assignment with the largest sum."""
    candidates = [_triple(axes) for axes in permutations(range(3))]
    return max(candidates, key=lambda axes: float(np.abs(matrix[range(3), list(axes)]).sum()))


def _steps(flips: tuple[bool, bool, bool]) -> tuple[slice, slice, slice]:
    a, b, c = (slice(None, None, -1 if flip else 1) for flip in flips)
    return (a, b, c)


def _triple(values: Iterable[_T]) -> tuple[_T, _T, _T]:
    a, b, c = values
    return (a, b, c)
