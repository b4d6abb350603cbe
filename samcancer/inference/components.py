"""Connected components of one label in a large label map, without a second volume in memory.

Two voxels are neighbours when they touch by a face, an edge or a corner (26-connectivity). The map
is labelled slab by slab inside the label's bounding box, and components that meet at a slab's
border are joined, so that memory is one slab however long the scan is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
"""26-connectivity."""

_SLAB_VOXELS = 1 << 23
"""Voxels labelled at once: 32 MiB of int32."""


@dataclass(frozen=True)
class Components:
    """The components of one label; component i has ``voxels[i]`` voxels."""

    label: int
    voxels: NDArray[np.int64]
    box: tuple[slice, slice, slice]
    """Bounding box of all of them."""
    slab_slices: int
    component_of_part: tuple[NDArray[np.intp], ...]
    """For each slab, the component of each of its parts (as ndimage.label numbers them, from 1)."""

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.voxels)


class Slab(NamedTuple):
    """What consecutive slices hold of some components."""

    box: tuple[slice, slice, slice]
    """Where it lies in the label map."""
    parts: NDArray[np.int32]
    """For each voxel of the box, its part, numbered from 1, or 0."""
    component: NDArray[np.intp]
    """For part p, ``component[p - 1]``; parts that do not touch in the slab may be of one."""


def find_components(
    values: NDArray[np.uint8], label: int, *, slab_voxels: int = _SLAB_VOXELS
) -> Components | None:
    """Return the components of ``values == label``; None when there is no such voxel.

    Args:
        values: (slice, row, column) label map.
        label: Value of the voxels to look at.
        slab_voxels: Upper limit of the voxels labelled at once (one slice at least).
    """
    box = _bounding_box(values, label)
    if box is None:
        return None
    region = values[box]
    slab_slices = max(1, slab_voxels // (region.shape[1] * region.shape[2]))
    part_voxels, links = _label_slabs(region, label, slab_slices)
    counts = [len(v) for v in part_voxels]
    total = sum(counts)
    pairs = np.concatenate(links) if links else np.zeros((0, 2), np.intp)
    graph = sparse.coo_array(
        (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(total, total)
    )
    component_count, component = sparse.csgraph.connected_components(graph, directed=False)
    voxels = np.bincount(component, weights=np.concatenate(part_voxels), minlength=component_count)
    return Components(
        label,
        voxels.astype(np.int64),
        box,
        slab_slices,
        tuple(np.split(component.astype(np.intp), np.cumsum(counts)[:-1])),
    )


def slabs_of(
    values: NDArray[np.uint8],
    components: Components,
    *,
    wanted: NDArray[np.bool_] | None = None,
) -> Iterator[Slab]:
    """Yield the components slab by slab, from the first slice to the last.

    Args:
        values: The label map that the components were found in; their voxels of later slabs are
            unchanged since.
        components: What :func:`find_components` returned.
        wanted: One flag per component; slabs without one of these are left out, which saves time.
    """
    planes, rows, columns = components.box
    slabs = _slabs(values[components.box], components.label, components.slab_slices)
    for (slab, mask), component in zip(slabs, components.component_of_part, strict=True):
        if wanted is not None and not wanted[component].any():
            continue
        parts, _ = ndimage.label(mask, structure=NEIGHBOURHOOD)
        slices = slice(planes.start + slab.start, planes.start + slab.stop)
        yield Slab((slices, rows, columns), parts, component)


def relabel_components(
    values: NDArray[np.uint8],
    components: Components,
    *,
    chosen: NDArray[np.bool_],
    new_label: int = 0,
) -> None:
    """Give the voxels of some components another label, in place; 0 removes them.

    Args:
        values: The label map that the components were found in, unchanged since.
        components: What :func:`find_components` returned.
        chosen: One flag per component.
        new_label: What their voxels become.
    """
    if not chosen.any():
        return
    for slab in slabs_of(values, components, wanted=chosen):
        hit = np.concatenate([[False], chosen[slab.component]])
        values[slab.box][hit[slab.parts]] = new_label


def _bounding_box(values: NDArray[np.uint8], label: int) -> tuple[slice, slice, slice] | None:
    in_slice = np.zeros(values.shape[0], dtype=bool)
    in_plane = np.zeros(values.shape[1:], dtype=bool)
    for z, plane in enumerate(values):
        mask = plane == label
        if mask.any():
            in_slice[z] = True
            in_plane |= mask
    if not in_slice.any():
        return None
    in_row, in_column = (np.asarray(in_plane.any(axis=axis)) for axis in (1, 0))
    return (_span(in_slice), _span(in_row), _span(in_column))


def _span(flags: NDArray[np.bool_]) -> slice:
    indices = np.flatnonzero(flags)
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _slabs(
    region: NDArray[np.uint8], label: int, slab_slices: int
) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    for start in range(0, len(region), slab_slices):
        slab = slice(start, min(start + slab_slices, len(region)))
        yield slab, region[slab] == label


def _label_slabs(
    region: NDArray[np.uint8], label: int, slab_slices: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.intp]]]:
    """Return the voxels of each slab's parts, and pairs of touching parts of adjacent slabs."""
    part_voxels: list[NDArray[np.int64]] = []
    links: list[NDArray[np.intp]] = []
    previous: NDArray[np.intp] | None = None
    offset = 0
    for _, mask in _slabs(region, label, slab_slices):
        parts, count = ndimage.label(mask, structure=NEIGHBOURHOOD)
        part_voxels.append(np.bincount(parts.ravel(), minlength=count + 1)[1:].astype(np.int64))
        first, last = (np.where(p > 0, p + (offset - 1), -1) for p in (parts[0], parts[-1]))
        if previous is not None:
            links.append(_touching(previous, first))
        previous = last
        offset += count
    return part_voxels, links


def _touching(below: NDArray[np.intp], above: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the different pairs (n, 2) of parts that touch across two adjacent slices."""
    rows, columns = above.shape
    padded = np.pad(below, 1, constant_values=-1)
    pairs = []
    for row_shift in range(3):
        for column_shift in range(3):
            shifted = padded[row_shift : row_shift + rows, column_shift : column_shift + columns]
            both = (shifted >= 0) & (above >= 0)
            pairs.append(np.stack([shifted[both], above[both]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)
