"""From an affine matrix to a grid: shear, missing spacings and disagreeing headers are refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry

EXACT_SHEAR_DEGREES = 0.02
"""Up to here axes count as perpendicular: what float32 headers and rounding leave."""

REPAIRED_SHEAR_DEGREES = 0.2
"""Up to here a grid is straightened to the nearest rotation, with a warning."""


def grid_from_affine(
    affine_lps: NDArray[np.float64],
    size_xyz: tuple[int, int, int],
    *,
    path: Path,
    nearest_rotation: bool,
) -> tuple[Geometry, tuple[str, ...]]:
    """Turn a 4 x 4 index-to-LPS matrix into a grid with perpendicular axes.

    Args:
        affine_lps: Voxel index (x, y, z, 1) to LPS in mm.
        size_xyz: Number of voxels.
        path: Named in errors.
        nearest_rotation: Straighten any shear instead of refusing it.

    Returns:
        The grid and warnings.

    Raises:
        InputError: When a spacing is 0 or not finite, or the axes are sheared.
    """
    steps = affine_lps[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    if not np.isfinite(affine_lps).all() or (spacing <= 0).any():
        shown = ", ".join(f"{v:g}" for v in spacing)
        raise InputError(
            f"its voxel spacing is ({shown}) mm", path=path, mend="mend the header's spacing"
        )
    direction = steps / spacing
    shear = shear_degrees(direction)
    warnings: tuple[str, ...] = ()
    if shear > EXACT_SHEAR_DEGREES:
        if shear > REPAIRED_SHEAR_DEGREES and not nearest_rotation:
            raise InputError(
                f"its axes are sheared by {shear:.2f} degrees",
                path=path,
                mend="resample it to perpendicular axes, or accept the nearest rotation with "
                "--nearest-rotation",
            )
        warnings = (f"axes sheared by {shear:.3f} degrees were straightened",)
    if shear > 0:
        direction = nearest_rotation_of(direction)
    geometry = Geometry(
        size_xyz,
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        tuple(float(v) for v in affine_lps[:3, 3]),  # type: ignore[arg-type]
        tuple(float(v) for v in direction.ravel()),
    )
    return geometry, warnings


def shear_degrees(direction: NDArray[np.float64]) -> float:
    """Return how far the columns of a 3 x 3 matrix are from perpendicular, in degrees."""
    cosines = direction.T @ direction
    largest = max(abs(cosines[0, 1]), abs(cosines[0, 2]), abs(cosines[1, 2]))
    return math.degrees(math.asin(min(1.0, float(largest))))


def nearest_rotation_of(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the orthonormal matrix, of either handedness, closest to ``direction``."""
    left, _, right = np.linalg.svd(direction)
    nearest: NDArray[np.float64] = left @ right
    return nearest
