"""Outlines of masks along voxel borders, for drawing: exact, never smoothed.

Convention: voxel (row r, column c) covers columns c..c+1 and rows r..r+1 of the drawing, so corners
have whole-number positions and an outline encloses exactly the mask's area.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

Corner = tuple[int, int]
"""Column and row of a voxel corner."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[list[Corner]]:
    """Trace the borders of a mask.

    Args:
        mask: (rows, columns).

    Returns:
        Closed loops of corners where the direction turns, the first not repeated; the inside lies
        on the right hand when walking (clockwise on a screen), so holes run the other way. Voxels
        that touch by a corner only are traced apart. An empty mask has no loops.
    """
    ends = _border_steps(mask)
    loops = []
    while ends:
        start = next(iter(ends))
        loop = [start]
        heading: Corner | None = None
        here = start
        while True:
            after = _turn(here, heading, ends[here])
            ends[here].remove(after)
            if not ends[here]:
                del ends[here]
            heading = (after[0] - here[0], after[1] - here[1])
            here = after
            if here == start:
                break
            loop.append(here)
        loops.append(_corners_only(loop))
    return loops


def svg_path(loops: Iterable[list[Corner]]) -> str:
    """Return loops as the ``d`` of an SVG path in voxel units, with relative moves only."""
    parts = []
    for loop in loops:
        column, row = loop[0]
        parts.append(f"M{column} {row}")
        for next_column, next_row in loop[1:]:
            parts.append(f"h{next_column - column}" if next_row == row else f"v{next_row - row}")
            column, row = next_column, next_row
        parts.append("z")
    return "".join(parts)


def _border_steps(mask: npt.NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Map each corner to the corners one step on, walking with the inside on the right."""
    padded = np.pad(mask.astype(np.int8), 1)
    steps: dict[Corner, list[Corner]] = {}
    across_rows = padded[1:, 1:-1] - padded[:-1, 1:-1]
    for row, column in np.argwhere(across_rows == 1).tolist():
        steps.setdefault((column, row), []).append((column + 1, row))
    for row, column in np.argwhere(across_rows == -1).tolist():
        steps.setdefault((column + 1, row), []).append((column, row))
    across_columns = padded[1:-1, 1:] - padded[1:-1, :-1]
    for row, column in np.argwhere(across_columns == 1).tolist():
        steps.setdefault((column, row + 1), []).append((column, row))
    for row, column in np.argwhere(across_columns == -1).tolist():
        steps.setdefault((column, row), []).append((column, row + 1))
    return steps


def _turn(here: Corner, heading: Corner | None, choices: list[Corner]) -> Corner:
    """Choose where to go: to the right where two voxels meet by a corner, so they stay apart."""
    if heading is None or len(choices) == 1:
        return choices[0]
    right = (here[0] - heading[1], here[1] + heading[0])
    return right if right in choices else choices[0]


def _corners_only(loop: list[Corner]) -> list[Corner]:
    return [
        here
        for before, here, after in zip(
            [loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True
        )
        if (before[0] == here[0]) != (here[0] == after[0])
    ]
