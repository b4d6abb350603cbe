"""The volume being painted: Hounsfield units and, beside them, which tissue fills each voxel.

Structures are painted from the outside in; each covers what lies under it by its share of the
voxel, which is what partial volume does. Arrays are (slice, row, column).
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.dice import Vector
from data_prep.phantoms.fields import Field, Frame, Mesh, Solid, capsule

_SLAB_PIXELS = 300_000
"""Pixels worked on at a time, so that they stay in the processor's cache."""

_SUBSLICE_MM = 1.5
"""Thin structures are averaged over slices of at most this thickness."""


class Tissue(IntEnum):
    """What fills most of a voxel."""

    AIR = 0
    TABLE = 1
    SKIN = 2
    FAT = 3
    MUSCLE = 4
    LUNG = 5
    BONE = 6
    LIVER = 7
    SPLEEN = 8
    KIDNEY = 9
    HEART = 10
    VESSEL = 11
    BOWEL = 12
    GAS = 13
    AIRWAY = 14
    OTHER_ORGAN = 15


class Canvas:
    """Hounsfield units and tissue of a scan while it is painted."""

    def __init__(self, frame: Frame, *, background_hu: float, blur_mm: float) -> None:
        """Start with an even background; ``blur_mm`` is the width of every edge in plane."""
        self.frame = frame
        self.blur_mm = blur_mm
        shape = (frame.slices, frame.size, frame.size)
        self.hu: npt.NDArray[np.float32] = np.full(shape, background_hu, np.float32)
        self.tissue: npt.NDArray[np.uint8] = np.full(shape, Tissue.AIR, np.uint8)

    def paint(
        self,
        solid: Solid,
        value_hu: float | Field,
        tissue: Tissue | None = None,
        *,
        opacity: float = 1.0,
        blur_mm: float | None = None,
    ) -> None:
        """Cover by a structure.

        Args:
            solid: The structure.
            value_hu: Its Hounsfield units, one number or a field on the structure's mesh.
            tissue: What it is; None leaves the tissue under it named as it was.
            opacity: Most of a voxel's value that it replaces.
            blur_mm: Width of its edge when not the canvas's own.
        """
        if solid.mesh.empty:
            return
        ramp = self._ramp(solid.distance, self.blur_mm if blur_mm is None else blur_mm)
        box = _extent(ramp)
        if box is None:
            return
        step = solid.mesh.step
        ramp = ramp[box]
        value = value_hu[box] if isinstance(value_hu, np.ndarray) else value_hu
        first = solid.mesh.slices.start + box[0].start
        rows = _fine(box[1], solid.mesh.rows, step)
        columns = _fine(box[2], solid.mesh.columns, step)
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        slab = max(1, _SLAB_PIXELS // pixels)
        for start in range(0, ramp.shape[0], slab):
            part = slice(start, min(start + slab, ramp.shape[0]))
            share = upsampled(ramp[part], step)
            np.minimum(share, 1.0, out=share)
            np.maximum(share, 0.0, out=share)
            where = (slice(first + part.start, first + part.stop), rows, columns)
            if tissue is not None:
                np.copyto(self.tissue[where], np.uint8(tissue), where=share >= 0.5)
            if opacity != 1.0:
                share *= opacity
            fine = upsampled(value[part], step) if isinstance(value, np.ndarray) else value
            view = self.hu[where]
            change = fine - view
            change *= share
            view += change

    def _ramp(self, distance: Field, blur_mm: float) -> Field:
        """Return the share before clipping: 0.5 - distance / width."""
        across = np.empty_like(distance)
        if distance.shape[0] > 1:
            np.subtract(distance[2:], distance[:-2], out=across[1:-1])
            across[1:-1] *= 0.5
            across[0] = distance[1] - distance[0]
            across[-1] = distance[-1] - distance[-2]
        else:
            across[:] = 0.0
        across *= across
        across += blur_mm * blur_mm
        np.sqrt(across, out=across)
        np.divide(distance, across, out=across)
        return np.subtract(0.5, across, out=across)

    def paint_rod(
        self, start: Vector, end: Vector, radii_mm: tuple[float, float], value_hu: float,
        tissue: Tissue | None = None,
    ) -> None:  # fmt: skip
        """Cover by a thin cone between two points in real millimetres, averaged over the slice."""
        frame, reach = self.frame, max(radii_mm) + self.blur_mm
        thick = reach + frame.slice_mm / 2
        slices = frame.span_z(min(start[2], end[2]) - thick, max(start[2], end[2]) + thick)
        rows = frame.span_y(min(start[1], end[1]) - reach, max(start[1], end[1]) + reach)
        columns = frame.span_x(min(start[0], end[0]) - reach, max(start[0], end[0]) + reach)
        if 0 in (s.stop - s.start for s in (slices, rows, columns)):
            return
        parts = max(1, math.ceil(frame.slice_mm / _SUBSLICE_MM))
        at = subslices(slices, parts)
        z = frame.z_mm(at)[:, None, None]
        y = frame.y_mm(np.arange(rows.start, rows.stop))[None, :, None]
        x = frame.x_mm(np.arange(columns.start, columns.stop))[None, None]
        share = capsule(z, y, x, start, end, radii_mm)
        share *= -1.0 / self.blur_mm
        share += 0.5
        np.minimum(share, 1.0, out=share)
        np.maximum(share, 0.0, out=share)
        share = mean_of_subslices(share, parts)
        view = self.hu[slices, rows, columns]
        if tissue is not None:
            np.copyto(self.tissue[slices, rows, columns], np.uint8(tissue), where=share >= 0.5)
        change = value_hu - view
        change *= share
        view += change


def subslices(slices: slice, parts: int) -> Field:
    """Return fractional slice indices of ``parts`` evenly spaced samples within each slice."""
    index = np.arange((slices.stop - slices.start) * parts)
    at: Field = slices.start + (index + 0.5) / parts - 0.5
    return at


def mean_of_subslices(values: Field, parts: int) -> Field:
    """Average ``parts`` neighbouring samples along the first axis, in a fixed order."""
    grouped = values.reshape(-1, parts, *values.shape[1:])
    total: Field = grouped[:, 0].copy()
    for part in range(1, parts):
        total += grouped[:, part]
    total *= 1.0 / parts
    return total


def solid_of(mesh: Mesh, distance: Field) -> Solid:
    """Pair a distance with its mesh, spreading it over axes it does not vary along."""
    return Solid(mesh, np.ascontiguousarray(np.broadcast_to(distance, mesh.shape)))


def _extent(ramp: Field) -> tuple[slice, slice, slice] | None:
    """Return the smallest box of mesh cells that holds all positive shares."""
    positive = ramp > 0
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(positive.any(axis=others))
        if hit.size == 0:
            return None
        margin = 0 if axis == 0 else 1
        start = max(0, int(hit[0]) - margin)
        stop = min(ramp.shape[axis], int(hit[-1]) + 1 + margin)
        if axis > 0 and stop - start < 2:
            start = max(0, stop - 2)
        spans.append(slice(start, stop))
    return (spans[0], spans[1], spans[2])


def _fine(box: slice, mesh_span: slice, step: int) -> slice:
    return slice(mesh_span.start + box.start * step, mesh_span.start + (box.stop - 1) * step)


def upsampled(values: Field, step: int) -> Field:
    """Interpolate samples of every ``step``-th pixel to every pixel; the last sample is dropped."""
    while step > 1:
        values = _doubled(_doubled(values, axis=1), axis=2)
        step //= 2
    return values[:, :-1, :-1]


def _doubled(values: Field, *, axis: int) -> Field:
    shape = list(values.shape)
    shape[axis] = 2 * shape[axis] - 1
    out = np.empty(shape, np.float32)
    if axis == 1:
        out[:, ::2] = values
        odd = out[:, 1::2]
        np.add(values[:, :-1], values[:, 1:], out=odd)
    else:
        out[:, :, ::2] = values
        odd = out[:, :, 1::2]
        np.add(values[:, :, :-1], values[:, :, 1:], out=odd)
    odd *= 0.5
    return out
