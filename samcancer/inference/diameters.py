"""Longest and perpendicular diameter of a lesion in one slice, as RECIST measures them.

The lesion's outline is that of marching squares: halfway between a voxel inside and its neighbour
outside. The long axis joins the two points of the outline that lie farthest apart; the short axis
is the longest line perpendicular to it. Both are measured on the convex hull, as a reader does who
lays a ruler over a lesion with a dent. Source: RECIST 1.1, Eisenhauer et al. 2009.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Diameters(NamedTuple):
    """Two lines in a slice, each as two points (row, column) in voxels, with fractions."""

    long_mm: float
    long_ends: NDArray[np.float64]
    """(2, 2)."""
    short_mm: float
    short_ends: NDArray[np.float64]
    """(2, 2)."""


def measure_diameters(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    *,
    row_mm: float,
    column_mm: float,
) -> Diameters:
    """Measure one region of one slice.

    Args:
        rows: Of its voxels; at least one.
        columns: Of the same voxels.
        row_mm: Distance between rows.
        column_mm: Distance between columns.
    """
    from scipy.spatial import ConvexHull  # most scans of a batch may hold no lesion
    from scipy.spatial.distance import cdist

    pixel_mm = np.array([row_mm, column_mm])
    points = _outline(rows, columns) * pixel_mm
    hull = points[ConvexHull(points).vertices]
    first, second = np.unravel_index(cdist(hull, hull).argmax(), (len(hull), len(hull)))
    start, stop = hull[first], hull[second]
    long_mm = float(np.hypot(*(stop - start)))
    along = (stop - start) / long_mm
    across = np.array([-along[1], along[0]])
    t, s = (hull - start) @ along, (hull - start) @ across
    low, high = (_chain(t, s * sign, long_mm) * sign for sign in (-1, 1))
    widest = int((high - low).argmax())
    foot = start + t[widest] * along
    short_ends = np.stack([foot + low[widest] * across, foot + high[widest] * across])
    return Diameters(
        long_mm,
        np.stack([start, stop]) / pixel_mm,
        float(high[widest] - low[widest]),
        short_ends / pixel_mm,
    )


def _outline(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the edge midpoints (n, 2) that can lie on the hull: ends of each row and column."""
    return np.concatenate([_ends_of_lines(rows, columns), _ends_of_lines(columns, rows)[:, ::-1]])


def _ends_of_lines(lines: NDArray[np.intp], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (line, place) half a voxel before the first and behind the last of every line."""
    found, index = np.unique(lines, return_inverse=True)
    first = np.full(len(found), np.iinfo(np.intp).max)
    last = np.full(len(found), np.iinfo(np.intp).min)
    np.minimum.at(first, index, places)
    np.maximum.at(last, index, places)
    before, behind = np.stack([found, first - 0.5], axis=1), np.stack([found, last + 0.5], axis=1)
    return np.concatenate([before, behind])


def _chain(
    t: NDArray[np.float64], height: NDArray[np.float64], long_mm: float
) -> NDArray[np.float64]:
    """Return the hull's height over the long axis at every ``t``, on the side where it is above."""
    above = np.flatnonzero(height > 0)
    above = above[t[above].argsort()]
    known_t = np.concatenate([[0.0], t[above], [long_mm]])
    known_height = np.concatenate([[0.0], height[above], [0.0]])
    heights: NDArray[np.float64] = np.interp(t, known_t, known_height)
    return heights
