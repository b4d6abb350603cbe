"""Normalised surface Dice, equal to DeepMind's ``surface_distance`` and to the FLARE scripts.

Surface elements sit at voxel corners and their areas come from that package's marching-cubes
tables. Its two distance transforms are replaced by a search among the offsets that lie within the
tolerance, which gives the same number from a small part of the time and memory; the package's own
functions also use names that SciPy 2 and NumPy 2 drop. The order and direction of the axes do not
matter: all 256 areas are the same for every permutation and flip.

Source: Nikolov et al. 2018, https://github.com/google-deepmind/surface-distance.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from surface_distance import lookup_tables

from samcancer.evaluation.boxes import bounding_box

_INSIDE = 255
"""Neighbour code of a corner whose eight voxels all belong to the mask."""


def surface_dice(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> float:
    """Return the share of both surfaces that lies within the tolerance of the other one.

    Args:
        reference: (slice, row, column) mask with at least one voxel.
        prediction: Mask of the same shape with at least one voxel.
        spacing_mm: Distance between (slices, rows, columns).
        tolerance_mm: Largest distance that counts as agreement; the distance itself counts.

    Raises:
        ValueError: When a mask is empty (the protocol decides what that means) or shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {prediction.shape}")
    if not reference.any() or not prediction.any():
        raise ValueError("the surface of an empty mask is not defined")
    box = bounding_box(reference | prediction)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    areas = _areas(tuple(float(v) for v in spacing))
    codes = [_neighbour_codes(mask[box]) for mask in (reference, prediction)]
    borders = [np.argwhere((code != 0) & (code != _INSIDE)) for code in codes]
    offsets = _offsets_within(spacing, tolerance_mm)
    agreeing = total = 0.0
    for own, other in ((0, 1), (1, 0)):
        area = areas[codes[own][tuple(borders[own].T)]]
        near = _near(borders[own], borders[other], codes[own].shape, offsets)
        agreeing += float(area[near].sum())
        total += float(area.sum())
    return agreeing / total


@functools.lru_cache(maxsize=16)
def _areas(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the area in mm2 of every neighbour code; classes of a case share it."""
    areas: NDArray[np.float64] = lookup_tables.create_table_neighbour_code_to_surface_area(
        np.asarray(spacing_mm)
    )
    return areas


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return, for every voxel corner, one bit for each of the eight voxels around it."""
    padded = np.pad(mask.astype(np.uint8), 1)
    shape = tuple(n + 1 for n in mask.shape)
    codes = np.zeros(shape, dtype=np.uint8)
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.astype(np.uint8)
    for shift in itertools.product(range(2), repeat=3):
        window = tuple(slice(s, s + n) for s, n in zip(shift, shape, strict=True))
        codes += kernel[shift] * padded[window]
    return codes


def _offsets_within(spacing_mm: NDArray[np.float64], tolerance_mm: float) -> NDArray[np.intp]:
    """Return the (n, 3) integer offsets whose length in mm is at most the tolerance, short first.

    Short ones come first because most points of a usual prediction have their neighbour close by.
    """
    reach = [int(np.ceil(tolerance_mm / s)) for s in spacing_mm]
    grid = np.stack(
        np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    squares = (grid.astype(np.float64) * spacing_mm) ** 2
    length_mm = np.sqrt(np.add.reduce(squares, axis=1))
    order = np.argsort(length_mm, kind="stable")
    inside: NDArray[np.intp] = grid[order][length_mm[order] <= tolerance_mm].astype(np.intp)
    return inside


def _near(
    points: NDArray[np.intp],
    others: NDArray[np.intp],
    shape: tuple[int, ...],
    offsets: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """Return which of ``points`` has one of ``others`` at one of the offsets."""
    margin = np.abs(offsets).max(axis=0)
    held = np.zeros([n + 2 * m for n, m in zip(shape, margin, strict=True)], dtype=bool)
    flat = held.reshape(-1)
    strides = np.array([held.shape[1] * held.shape[2], held.shape[2], 1], dtype=np.intp)
    flat[(others + margin) @ strides] = True
    near = np.zeros(len(points), dtype=bool)
    remaining = np.arange(len(points))
    places = (points + margin) @ strides
    for step in offsets @ strides:
        found = flat[places + step]
        near[remaining[found]] = True
        remaining, places = remaining[~found], places[~found]
        if not len(remaining):
            break
    return near
