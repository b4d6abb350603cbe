"""Left and right decided by where a component lies, not by what the network called it.

Which side is which follows from the patient's mid-plane: halfway between the outer ends of each row
of the body, and the median of that over rows and slices, so that a couch, an arm or a patient who
lies off the centre does not shift it. Rows that reach the edge of the scan may be cut and do not
count. Where too few are left, the mid-plane lies halfway between the largest component of either
side, if these are on their sides and apart. Else nothing is decided.

Arrays are (slice, row, column) in canonical orientation: columns run to the patient's left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer.inference.components import (
    Components,
    find_components,
    relabel_components,
    slabs_of,
)

MARGIN_MM = 10.0
"""A component whose centre is nearer to the mid-plane keeps its side."""

BODY_HU = -300
"""Voxels above are body; lungs lie between them."""

_LEAST_WHOLE_ROWS = 0.5
"""Share of the body's rows that must not reach the edge of the scan."""

_MOST_SLICES = 64
"""Slices, evenly spread, that the body's mid-plane is taken from."""

_IN_TRANSIT = 255
"""Label of voxels on their way from right to left, which no class has."""


class SideChanges(NamedTuple):
    """Components that changed sides, as their numbers of voxels."""

    to_left: NDArray[np.int64]
    to_right: NDArray[np.int64]
    obstacle: str | None = None
    """Why nothing could be decided, where that is so."""


class _Side(NamedTuple):
    components: Components
    columns: NDArray[np.float64]
    """Centre of each component."""


def settle_sides(
    values: NDArray[np.uint8],
    *,
    right: int,
    left: int,
    volume_hu: NDArray[np.int16],
    column_mm: float,
) -> SideChanges:
    """Give the components of a pair of classes to the side they lie on, in place.

    Args:
        values: (slice, row, column) label map in canonical orientation.
        right: Value of the class on the patient's right.
        left: Value of the class on the left.
        volume_hu: The scan, on the same grid.
        column_mm: Distance between columns.
    """
    rights, lefts = (_side(values, label) for label in (right, left))
    nothing = np.zeros(0, dtype=np.int64)
    found = [side for side in (rights, lefts) if side is not None]
    if not found:
        return SideChanges(nothing, nothing)
    middle = _middle_of_body(volume_hu, slices=_slices_of(found))
    if middle is None and rights is not None and lefts is not None:
        middle = _middle_of_pair(rights, lefts, column_mm)
    if middle is None:
        return SideChanges(nothing, nothing, "the patient's mid-plane is not known")
    margin = MARGIN_MM / column_mm
    to_left = to_right = nothing
    if rights is not None:
        chosen = rights.columns > middle + margin
        to_left = rights.components.voxels[chosen]
        relabel_components(values, rights.components, chosen=chosen, new_label=_IN_TRANSIT)
    if lefts is not None:
        chosen = lefts.columns < middle - margin
        to_right = lefts.components.voxels[chosen]
        relabel_components(values, lefts.components, chosen=chosen, new_label=right)
    if rights is not None and len(to_left):
        for plane in values[rights.components.box]:
            plane[plane == _IN_TRANSIT] = left
    return SideChanges(to_left, to_right)


def _side(values: NDArray[np.uint8], label: int) -> _Side | None:
    components = find_components(values, label)
    if components is None:
        return None
    sums = np.zeros(components.count)
    columns = np.arange(components.box[2].start, components.box[2].stop, dtype=np.float64)
    for slab in slabs_of(values, components):
        of_part = np.zeros(len(slab.component) + 1)
        for plane in slab.parts:
            weights = np.broadcast_to(columns, plane.shape)
            of_part += np.bincount(plane.ravel(), weights.ravel(), minlength=len(of_part))
        sums += np.bincount(slab.component, of_part[1:], minlength=components.count)
    return _Side(components, sums / components.voxels)


def _slices_of(sides: list[_Side]) -> range:
    boxes = [side.components.box[0] for side in sides]
    return range(min(b.start for b in boxes), max(b.stop for b in boxes))


def _middle_of_body(volume_hu: NDArray[np.int16], *, slices: range) -> float | None:
    """Return the column of the mid-plane; None when there is no body or too much of it is cut."""
    rows = list(_rows_of_body(volume_hu, slices[:: -(-len(slices) // _MOST_SLICES)]))
    if not rows:
        return None
    first, last = np.concatenate(rows, axis=1)
    whole = (first > 0) & (last < volume_hu.shape[2] - 1)
    if len(whole) == 0 or whole.mean() < _LEAST_WHOLE_ROWS:
        return None
    return float(np.median((first + last)[whole]) / 2)


def _rows_of_body(volume_hu: NDArray[np.int16], slices: range) -> Iterator[NDArray[np.intp]]:
    """Yield (2, n) for each slice: first and last column of the rows that meet the body."""
    for z in slices:
        body = volume_hu[z] > BODY_HU
        body = body[body.any(axis=1)]
        yield np.stack([body.argmax(axis=1), body.shape[1] - 1 - body[:, ::-1].argmax(axis=1)])


def _middle_of_pair(rights: _Side, lefts: _Side, column_mm: float) -> float | None:
    right, left = (side.columns[np.argmax(side.components.voxels)] for side in (rights, lefts))
    if (left - right) * column_mm <= 2 * MARGIN_MM:
        return None
    return float(right + left) / 2
