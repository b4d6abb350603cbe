"""Boxes around masks, so that nothing is computed on the air around them.

A box is one slice object per axis of a (slice, row, column) array. Boxes of label values come from
one pass over a label map, whatever the number of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, ...]

NOWHERE: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
"""The box of what is absent."""


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds every voxel of a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        indices = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(indices[0]), int(indices[-1]) + 1))
    return tuple(box)


def value_boxes(values: NDArray[np.integer[Any]]) -> dict[int, Box]:
    """Return the smallest box of every value above 0 that a label map holds."""
    found = ndimage.find_objects(values)
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def union_box(boxes: Mapping[int, Box], values: Iterable[int]) -> Box:
    """Return the smallest box around the boxes of some values; ``NOWHERE`` when none is there."""
    return join_boxes(boxes[value] for value in values if value in boxes)


def join_boxes(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around several; empty ones do not count."""
    kept = [box for box in boxes if box != NOWHERE]
    if not kept:
        return NOWHERE
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*kept, strict=True)
    )
