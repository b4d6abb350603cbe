"""Which components of a lesion lie in their organ, once it is closed and dilated.

[UM] keeps a tumour's voxels where its organ is, after closing and dilating the organ. Here lengths
are millimetres, shapes are balls, and a component that touches the region stays whole, since
clipping would cut exophytic tumours. The region is worked out only around the few parts that do not
overlap the organ itself, so memory is a few bytes per voxel of those.

Arrays are (slice, row, column); spacings in this file are in that order too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samcancer.inference.components import Components, slabs_of

CLOSING_MM = 5.0
"""Radius of the closing: notches and holes of the organ up to twice as wide count as organ."""

_TOLERANCE_MM = 1e-3
"""Spacings come as float32; a voxel at the exact distance is still within it."""

_Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class OrganRegion:
    """The voxels within some distance of an organ after its closing."""

    organs: NDArray[np.uint8]
    """(slice, row, column) label map of organs."""
    labels: tuple[int, ...]
    """Values in it that make up the organ; several for a union."""
    reach_mm: float
    """Radius of the dilation."""
    spacing_mm: tuple[float, float, float]
    """Distance between slices, rows and columns."""

    def touched_by(
        self, values: NDArray[np.uint8], components: Components, *, asked: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return, for each component, whether it shares a voxel with the region.

        Args:
            values: The label map of the components, on the organ's grid.
            components: What :func:`find_components` returned.
            asked: One flag per component; the others are answered by False.
        """
        touched = np.zeros(components.count, dtype=bool)
        for slab in slabs_of(values, components, wanted=asked):
            of_part = np.bincount(
                slab.parts[self._is_organ(slab.box)], minlength=len(slab.component) + 1
            )
            touched[slab.component[of_part[1:] > 0]] = True
        touched &= asked
        for slab in slabs_of(values, components, wanted=asked & ~touched):
            for part, inner in enumerate(ndimage.find_objects(slab.parts), start=1):
                component = slab.component[part - 1]
                if asked[component] and not touched[component]:
                    box = _inner_box(slab.box, inner)
                    touched[component] = self._overlaps(slab.parts[inner] == part, box)
        return touched

    def _overlaps(self, mask: NDArray[np.bool_], box: _Box) -> bool:
        """Return whether a mask, of the size of its box, shares a voxel with the region."""
        # A closing reaches no further than its radius, so most strays end here.
        if not self._organ_around(box, self.reach_mm + CLOSING_MM)[0].any():
            return False
        organ, start = self._organ_around(box, self.reach_mm + 2 * CLOSING_MM)
        closed = ~dilate(~dilate(organ, CLOSING_MM, self.spacing_mm), CLOSING_MM, self.spacing_mm)
        region = dilate(closed, self.reach_mm, self.spacing_mm)
        inner = tuple(slice(s, s + size) for s, size in zip(start, mask.shape, strict=True))
        return bool((region[inner] & mask).any())

    def _organ_around(self, box: _Box, margin_mm: float) -> tuple[NDArray[np.bool_], list[int]]:
        """Return the organ in a box and a margin around it, and where the box starts in that.

        There is no organ outside of the map; what surrounds it is as wide as a closing needs.
        """
        crop, widths, start = [], [], []
        for span, size, step_mm in zip(box, self.organs.shape, self.spacing_mm, strict=True):
            margin, room = (_steps(length, step_mm) for length in (margin_mm, 2 * CLOSING_MM))
            first, last = max(span.start - margin, -room), min(span.stop + margin, size + room)
            crop.append(slice(max(first, 0), min(last, size)))
            widths.append((max(-first, 0), max(last - size, 0)))
            start.append(span.start - first)
        return np.pad(self._is_organ((crop[0], crop[1], crop[2])), widths), start

    def _is_organ(self, box: _Box) -> NDArray[np.bool_]:
        lookup = np.zeros(256, dtype=bool)
        lookup[list(self.labels)] = True
        return lookup[self.organs[box]]


def dilate(
    mask: NDArray[np.bool_], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return the voxels whose centre is within a distance of the centre of a voxel of a mask.

    The distance is Euclidean; it is found in each slice and combined across slices, so that no
    float array is larger than a slice.

    Args:
        mask: (slice, row, column).
        radius_mm: The distance, inclusive.
        spacing_mm: Distance between slices, rows and columns.
    """
    slice_mm, row_mm, column_mm = spacing_mm
    limit_mm = radius_mm + _TOLERANCE_MM
    reach = int(limit_mm / slice_mm)
    dilated = np.zeros_like(mask)
    for z, plane in enumerate(mask):
        if not plane.any():
            continue
        squared_mm2 = ndimage.distance_transform_edt(~plane, sampling=(row_mm, column_mm)) ** 2
        for other in range(max(0, z - reach), min(len(mask), z + reach + 1)):
            dilated[other] |= squared_mm2 <= limit_mm**2 - ((other - z) * slice_mm) ** 2
    return dilated


def _steps(length_mm: float, step_mm: float) -> int:
    return math.ceil((length_mm + _TOLERANCE_MM) / step_mm)


def _inner_box(outer: _Box, inner: _Box) -> _Box:
    z, y, x = (
        slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True)
    )
    return (z, y, x)
