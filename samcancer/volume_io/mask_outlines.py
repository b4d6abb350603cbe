"""The outline of a mask along its voxels' edges, as closed polygons that give the mask back.

Positions are (column, row) in voxels; voxel (r, c) has its centre at (c, r), so edges lie at
halves. By the even-odd rule the polygons of a slice enclose exactly the centres of its voxels: a
hole is a polygon of its own inside another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(n, 2) column and row positions in voxels."""

_Corner = tuple[int, int]
"""Column and row of a corner: that at (c - 0.5, r - 0.5) is (c, r)."""


class Outline(NamedTuple):
    """One closed polygon."""

    points: Points
    """Its corners; the last is joined to the first."""
    is_hole: bool


def mask_outlines(mask: NDArray[np.bool_]) -> list[Outline]:
    """Return the outlines of a slice.

    Args:
        mask: (rows, columns). Empty masks have no outline.

    Returns:
        Outer outlines run clockwise on the screen and holes counter-clockwise. Voxels that meet at
        a corner only have outlines of their own.
    """
    following = _edges(mask)
    outlines = []
    while following:
        corners = _walk(following)
        points = np.asarray(corners, dtype=np.float64) - 0.5
        outlines.append(Outline(points, is_hole=_turns_left(points)))
    return outlines


def _edges(mask: NDArray[np.bool_]) -> dict[_Corner, list[_Corner]]:
    """Return each corner's next corners along the edges that have the mask on their right."""
    padded = np.pad(mask.astype(np.int8), 1)
    down = np.diff(padded, axis=0)[:, 1:-1]  # (rows + 1, columns): 1 where the mask begins
    right = np.diff(padded, axis=1)[1:-1]  # (rows, columns + 1)
    following: dict[_Corner, list[_Corner]] = {}
    for changes, sign, start, end in (
        (down, 1, (0, 0), (1, 0)),
        (down, -1, (1, 0), (0, 0)),
        (right, 1, (0, 1), (0, 0)),
        (right, -1, (0, 0), (0, 1)),
    ):
        for row, column in np.argwhere(changes == sign).tolist():
            corner = (column + start[0], row + start[1])
            following.setdefault(corner, []).append((column + end[0], row + end[1]))
    return following


def _walk(following: dict[_Corner, list[_Corner]]) -> list[_Corner]:
    """Take one loop out of the edges; return the corners at which it turns."""
    first = next(iter(following))
    here, before = first, None
    visited: list[_Corner] = []
    while before is None or here != first:
        ahead = following[here]
        after = ahead[0] if before is None else _right_most(before, here, ahead)
        ahead.remove(after)
        if not ahead:
            del following[here]
        visited.append(here)
        before, here = here, after
    ring = [visited[-1], *visited, visited[0]]
    return [
        corner
        for previous, corner, nxt in zip(ring, ring[1:], ring[2:], strict=False)
        if _direction(previous, corner) != _direction(corner, nxt)
    ]


def _right_most(before: _Corner, here: _Corner, ahead: list[_Corner]) -> _Corner:
    """Where four edges meet, stay at the voxel: no outline then touches itself."""
    if len(ahead) == 1:
        return ahead[0]
    dx, dy = _direction(before, here)
    return next(c for c in ahead if _direction(here, c) == (-dy, dx))


def _direction(start: _Corner, end: _Corner) -> _Corner:
    dx, dy = end[0] - start[0], end[1] - start[1]
    return (dx > 0) - (dx < 0), (dy > 0) - (dy < 0)


def _turns_left(points: Points) -> bool:
    """Whether the polygon runs counter-clockwise on the screen, rows pointing down."""
    x, y = points.T
    return bool(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) < 0)
