"""Signed distance fields on a scan's grid, and painting them with partial volume.

Arrays are (slice, row, column) = (z, y, x), float32. Patient coordinates are millimetres with x to
the patient's left, y to the back, z to the head; z = 0 is the top of the right diaphragm. Anatomy
is described for a reference patient; a scan's mesh divides coordinates by the patient's scale, so
distances there are reference millimetres. A distance is negative inside.

Distances vary slowly, so they are evaluated on every ``step``-th pixel and interpolated: sharp
edges at a sixteenth of the cost. The share of a voxel that a structure fills is a linear ramp of
its distance, as wide as the blur in plane and the slice thickness across it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.dice import Dice, Vector

Field = npt.NDArray[Any]
"""A float32 array; NumPy's stubs widen float32 * float, hence no stricter type."""

FAR_MM = 60.0
"""Distance stated wherever a structure was not evaluated because it is far."""


class Box(NamedTuple):
    """A box in reference millimetres."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: tuple[float, float]


EVERYWHERE = Box((-1e4, 1e4), (-1e4, 1e4), (-1e4, 1e4))


@dataclass(frozen=True)
class Mesh:
    """Coordinates of every ``step``-th pixel of a box of voxels, one sample past its end."""

    step: int
    slices: slice
    rows: slice
    columns: slice
    z: Field
    """(slices, 1, 1)"""
    y: Field
    """(1, rows / step + 1, 1)"""
    x: Field
    """(1, 1, columns / step + 1)"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a field on this mesh."""
        return (self.z.shape[0], self.y.shape[1], self.x.shape[2])

    @property
    def empty(self) -> bool:
        """Whether the box lies outside the scan."""
        return self.shape[0] == 0 or self.shape[1] < 2 or self.shape[2] < 2


@dataclass(frozen=True)
class Frame:
    """The grid of a scan in canonical order (slices up, rows to the back, columns left)."""

    slices: int
    size: int
    slice_mm: float
    pixel_mm: float
    bottom_mm: float
    """z of the first slice's centre."""
    centre_xy_mm: tuple[float, float]
    """x and y of the centre of the field of view."""
    scale: Vector
    """Patient's size over the reference patient's, along x, y, z."""

    def z_mm(self, index: Field) -> Field:
        """Return z of slice indices (fractions allowed) in real millimetres."""
        return (index * self.slice_mm + self.bottom_mm).astype(np.float32)

    def y_mm(self, index: Field) -> Field:
        """Return y of row indices in real millimetres."""
        return self._in_plane(index, self.centre_xy_mm[1])

    def x_mm(self, index: Field) -> Field:
        """Return x of column indices in real millimetres."""
        return self._in_plane(index, self.centre_xy_mm[0])

    def _in_plane(self, index: Field, centre_mm: float) -> Field:
        return ((index - (self.size - 1) / 2) * self.pixel_mm + centre_mm).astype(np.float32)

    def span_z(self, low_mm: float, high_mm: float) -> slice:
        """Return the slices whose centres lie in a range of real millimetres, one more each way."""
        return _span(low_mm, high_mm, self.bottom_mm, self.slice_mm, self.slices, 1)

    def span_y(self, low_mm: float, high_mm: float, *, step: int = 1) -> slice:
        """Return the rows in a range of real millimetres, widened to multiples of ``step``."""
        first = self.centre_xy_mm[1] - (self.size - 1) / 2 * self.pixel_mm
        return _span(low_mm, high_mm, first, self.pixel_mm, self.size, step)

    def span_x(self, low_mm: float, high_mm: float, *, step: int = 1) -> slice:
        """Return the columns in a range of real millimetres, widened to multiples of ``step``."""
        first = self.centre_xy_mm[0] - (self.size - 1) / 2 * self.pixel_mm
        return _span(low_mm, high_mm, first, self.pixel_mm, self.size, step)

    def mesh(self, step: int, box: Box = EVERYWHERE) -> Mesh:
        """Return the mesh of every ``step``-th pixel (1, 2 or 4) in ``box``."""
        sx, sy, sz = self.scale
        slices = self.span_z(box.z[0] * sz, box.z[1] * sz)
        rows = self.span_y(box.y[0] * sy, box.y[1] * sy, step=step)
        columns = self.span_x(box.x[0] * sx, box.x[1] * sx, step=step)
        z = self.z_mm(np.arange(slices.start, slices.stop)) * (1.0 / sz)
        y = self.y_mm(np.arange(rows.start, rows.stop + 1, step)) * (1.0 / sy)
        x = self.x_mm(np.arange(columns.start, columns.stop + 1, step)) * (1.0 / sx)
        return Mesh(step, slices, rows, columns, z[:, None, None], y[None, :, None], x[None, None])


def _span(low: float, high: float, first: float, pitch: float, count: int, step: int) -> slice:
    start = math.floor((low - first) / pitch)
    stop = math.ceil((high - first) / pitch) + 1
    start = min(max(0, start // step * step), count)
    stop = min(count, -(-stop // step) * step)
    return slice(start, max(start, stop))


@dataclass(frozen=True)
class Solid:
    """A structure: its distance on a mesh."""

    mesh: Mesh
    distance: Field

    def refined(self, box: Box, frame: Frame) -> Solid:
        """Interpolate the distance onto the mesh of half the step, in ``box``."""
        mesh = frame.mesh(self.mesh.step // 2, box)
        return Solid(mesh, resample(self, mesh))


def resample(solid: Solid, mesh: Mesh) -> Field:
    """Interpolate a distance onto another mesh of the same scan."""
    return sample(
        solid,
        np.arange(mesh.slices.start, mesh.slices.stop),
        np.arange(mesh.rows.start, mesh.rows.stop + 1, mesh.step),
        np.arange(mesh.columns.start, mesh.columns.stop + 1, mesh.step),
    )


def sample(solid: Solid, slices: Field, rows: Field, columns: Field) -> Field:
    """Interpolate a distance at voxel indices (fractions allowed) along the three axes."""
    mesh = solid.mesh
    out = interpolate(solid.distance, slices - mesh.slices.start, axis=0)
    out = interpolate(out, (rows - mesh.rows.start) / mesh.step, axis=1)
    return interpolate(out, (columns - mesh.columns.start) / mesh.step, axis=2)


def interpolate(values: Field, position: Field, *, axis: int) -> Field:
    """Interpolate linearly along one axis at fractional indices; ends are repeated."""
    last = values.shape[axis] - 1
    position = np.clip(np.asarray(position, np.float32), 0, last)
    low = np.minimum(position.astype(np.int64), max(last - 1, 0))
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = (position - low.astype(np.float32)).reshape(shape)
    start = np.take(values, low, axis=axis)
    change: Field = np.take(values, np.minimum(low + 1, last), axis=axis)
    change -= start
    change *= weight
    change += start
    return change


class Noise:
    """Smooth noise in [-1, 1] with a given grain, fixed in space and cheap to evaluate anywhere."""

    def __init__(self, dice: Dice, grain_mm: float, *, centre: Vector = (0, 0, 0)) -> None:
        """Draw a 32 x 32 x 32 lattice that repeats every 32 grains."""
        self._grain = grain_mm
        self._centre = centre
        self._lattice = (dice.units(32**3) * 2.0 - 1.0).reshape(32, 32, 32)

    def at(self, z: Field, y: Field, x: Field) -> Field:
        """Evaluate at the grid of three coordinate axes (any shapes with one long axis)."""
        out: Field = self._lattice
        for axis, (coordinate, origin) in enumerate(
            zip((z, y, x), reversed(self._centre), strict=True)
        ):
            position = (coordinate.reshape(-1) - origin) * (1.0 / self._grain) + 160.5
            cell = np.floor(position)
            t = (position - cell).astype(np.float32)
            t = t * t * (3.0 - 2.0 * t)
            low = cell.astype(np.int64)
            shape = [1, 1, 1]
            shape[axis] = -1
            start: Field = np.take(out, low % 32, axis=axis)
            change = np.take(out, (low + 1) % 32, axis=axis)
            change -= start
            change *= t.reshape(shape)
            change += start
            out = change
        return out

    def on(self, mesh: Mesh) -> Field:
        """Evaluate on a mesh."""
        return self.at(mesh.z, mesh.y, mesh.x)


def ellipsoid(mesh: Mesh, centre: Vector, radii: Vector) -> Field:
    """Approximate distance to an ellipsoid along the axes (exact at its surface)."""
    x, y, z = (mesh.x - centre[0], mesh.y - centre[1], mesh.z - centre[2])
    rx, ry, rz = radii
    return _scaled_distance(
        (x * x / (rx * rx), y * y / (ry * ry), z * z / (rz * rz)),
        (x * x / (rx**4), y * y / (ry**4), z * z / (rz**4)),
    )


def turned_ellipsoid(mesh: Mesh, centre: Vector, radii: Vector, frame: Sequence[Vector]) -> Field:
    """Approximate distance to an ellipsoid whose axes are the unit vectors of ``frame``."""
    x, y, z = (mesh.x - centre[0], mesh.y - centre[1], mesh.z - centre[2])
    unit, gradient = [], []
    for axis, radius in zip(frame, radii, strict=True):
        along = (x * (axis[0] / radius) + y * (axis[1] / radius)) + z * (axis[2] / radius)
        along *= along
        unit.append(along)
        gradient.append(along * (1.0 / (radius * radius)))
    return _scaled_distance(unit, gradient)


def _scaled_distance(unit: Sequence[Field], gradient: Sequence[Field]) -> Field:
    k0: Field = np.sqrt((unit[0] + unit[1]) + unit[2])
    k1 = np.sqrt((gradient[0] + gradient[1]) + gradient[2])
    distance: Field = (k0 - 1.0) * k0 / np.maximum(k1, 1e-5)
    return distance


def capsule(
    z: Field, y: Field, x: Field, start: Vector, end: Vector, radii: tuple[float, float]
) -> Field:
    """Distance to a cone with round ends at a grid of coordinates (n,1,1), (1,n,1), (1,1,n)."""
    bx, by, bz = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    length2 = max(bx * bx + by * by + bz * bz, 1e-6)
    px, py, pz = (x - start[0], y - start[1], z - start[2])
    t: Field = (px * (bx / length2) + py * (by / length2)) + pz * (bz / length2)
    np.maximum(t, 0.0, out=t)
    np.minimum(t, 1.0, out=t)
    distance = np.zeros_like(t)
    for p, b in ((px, bx), (py, by), (pz, bz)):
        part = p - t * b
        part *= part
        distance += part
    np.sqrt(distance, out=distance)
    t *= radii[1] - radii[0]
    t += radii[0]
    distance -= t
    return distance


def tube(mesh: Mesh, points: Sequence[Vector], radii: Sequence[float]) -> Field:
    """Distance to a chain of capsules; ``FAR_MM`` where it is far."""
    out = np.full(mesh.shape, FAR_MM, np.float32)
    ends = zip(itertools.pairwise(points), itertools.pairwise(radii), strict=True)
    for (start, end), link_radii in ends:
        reach = max(link_radii) + FAR_MM / 4
        part = _near(mesh, start, end, reach)
        if part is None:
            continue
        view = out[part]
        z, y, x = (mesh.z[part[0]], mesh.y[:, part[1]], mesh.x[:, :, part[2]])
        near = capsule(z, y, x, start, end, link_radii)
        np.minimum(view, near, out=view)
    return out


def _near(mesh: Mesh, start: Vector, end: Vector, reach: float) -> tuple[slice, ...] | None:
    parts = []
    for coordinate, a, b in zip((mesh.z, mesh.y, mesh.x), start[::-1], end[::-1], strict=True):
        line = coordinate.reshape(-1)
        low, high = np.searchsorted(line, [min(a, b) - reach, max(a, b) + reach])
        if low == high:
            return None
        parts.append(slice(int(low), int(high)))
    return tuple(parts)


def smooth_min(a: Field, b: Field, radius_mm: float) -> Field:
    """Join two distances, rounding the crease over about ``radius_mm``."""
    h = radius_mm - np.abs(a - b)
    np.maximum(h, 0.0, out=h)
    h *= h
    h *= 0.25 / radius_mm
    joined: Field = np.minimum(a, b) - h
    return joined


def smooth_max(a: Field, b: Field, radius_mm: float) -> Field:
    """Intersect two distances, rounding the edge over about ``radius_mm``."""
    return -smooth_min(-a, -b, radius_mm)


def profile(z: Field, knots: Sequence[tuple[float, float]]) -> Field:
    """Evaluate a rounded line through (z, value) knots of ascending z; ends are repeated."""
    line = z.reshape(-1).astype(np.float64)
    total = np.zeros_like(line)
    offsets = (-20.0, -10.0, 0.0, 10.0, 20.0)
    for offset in offsets:
        value = np.full_like(line, knots[0][1])
        for (z0, v0), (z1, v1) in itertools.pairwise(knots):
            part = np.clip((line + offset - z0) / (z1 - z0), 0.0, 1.0)
            value = value + part * (v1 - v0)
        total = total + value
    return (total / len(offsets)).astype(np.float32).reshape(z.shape)
