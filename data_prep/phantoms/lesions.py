"""Tumours: where they may grow, their irregular shape and exact volume, and how they look.

A lesion is the inside of a level of a warped ellipsoidal radius; the level is chosen so that the
part within the organ has the drawn volume. Its share of a voxel is averaged over thin sub-slices,
and a voxel is labelled where the share is at least one half. Looks follow radiology texts:
metastases darker than liver with or without a bright rim, renal masses that enhance less than
cortex, solid lung nodules of 0-60 HU with smooth or spiky borders, sarcomas near muscle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from data_prep.phantoms.canvas import Tissue, subslices
from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.fields import Field, Frame, Mesh, Noise, Solid, sample

VOLUME_RANGE_ML = (0.1, 100.0)
"""Volumes are drawn evenly on a logarithmic scale from this range."""

LABEL_SHARE = 0.5
"""A voxel belongs to a lesion that fills at least this share of it."""


class LesionKind(str, Enum):
    """The four kinds, named as the classes of the taxonomy."""

    LIVER = "liver_lesion"
    KIDNEY = "kidney_lesion"
    LUNG = "lung_lesion"
    SOFT_TISSUE = "soft_tissue_lesion"

    @property
    def value_in_labels(self) -> int:
        """The voxel value of this kind when all kinds are labelled."""
        return list(LesionKind).index(self) + 1


HOME_TISSUES: dict[LesionKind, tuple[Tissue, ...]] = {
    LesionKind.LIVER: (Tissue.LIVER,),
    LesionKind.KIDNEY: (Tissue.KIDNEY,),
    LesionKind.LUNG: (Tissue.LUNG,),
    LesionKind.SOFT_TISSUE: (Tissue.MUSCLE, Tissue.FAT),
}
"""What a lesion of each kind may replace."""

_DEPTH_IN_HOME: dict[LesionKind, tuple[float, float]] = {
    LesionKind.LIVER: (0.45, 9.0),
    LesionKind.KIDNEY: (0.05, 0.8),
    LesionKind.LUNG: (0.35, 9.0),
    LesionKind.SOFT_TISSUE: (0.1, 0.8),
}
"""Least and most depth of a lesion's centre under its home's surface, in lesion radii."""

_SWELLS = (LesionKind.KIDNEY, LesionKind.SOFT_TISSUE)
"""Kinds whose home bulges around them."""

_BULGE_MM = 3.0
"""Tissue left between a lesion and the surface that it pushes out."""

_TRIES = 12
_SHRINK = 0.6
"""Factor on the volume after ``_TRIES`` places were too small for a lesion."""

_MAX_STRETCH = 1.22
"""How much a lesion may grow in width to make up for parts its home's border cuts off."""


@dataclass(frozen=True)
class Form:
    """The warped radius of a lesion, in real millimetres."""

    centre: Vector
    axes: tuple[Vector, Vector, Vector]
    stretch: Vector
    lumps: Noise
    lump_height: float
    grain: Noise
    grain_height: float
    spikes: tuple[Vector, ...]

    def at(self, z: Field, y: Field, x: Field) -> Field:
        """Evaluate at the grid of three coordinate axes of shapes (n,1,1), (1,n,1), (1,1,n)."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        radius: Field = np.zeros((z.size, y.size, x.size), np.float32)
        for axis, factor in zip(self.axes, self.stretch, strict=True):
            part = (dx * (axis[0] / factor) + dy * (axis[1] / factor)) + dz * (axis[2] / factor)
            part *= part
            radius += part
        np.sqrt(radius, out=radius)
        warp = 1.0 + self.lump_height * self.lumps.at(z, y, x)
        warp += self.grain_height * self.grain.at(z, y, x)
        if self.spikes:
            inverse = 1.0 / np.maximum(np.sqrt((dx * dx + dy * dy) + dz * dz), 0.5)
            for spike in self.spikes:
                toward = ((dx * spike[0] + dy * spike[1]) + dz * spike[2]) * inverse
                toward -= 0.90
                np.maximum(toward, 0.0, out=toward)
                warp -= 3.0 * toward
        radius *= np.maximum(warp, 0.3)
        return radius

    def on(self, mesh: Mesh, frame: Frame) -> Field:
        """Evaluate on a mesh of reference coordinates."""
        sx, sy, sz = frame.scale
        return self.at(mesh.z * sz, mesh.y * sy, mesh.x * sx)


@dataclass(frozen=True)
class Home:
    """Where lesions of a kind may grow: inside ``solid`` less ``margin_mm``."""

    kind: LesionKind
    solid: Solid
    margin_mm: float
    bulge: Field | None = None
    """Distance to what a lesion pushes out, on the solid's mesh; None when it holds none."""


@dataclass(frozen=True)
class PlannedLesion:
    """A lesion with its place and size settled, before the body is painted."""

    kind: LesionKind
    volume_ml: float
    form: Form
    level_mm: float
    radius_mm: float
    home: Home


@dataclass(frozen=True)
class PaintedLesion:
    """What became of a lesion on the scan's grid."""

    kind: LesionKind
    drawn_ml: float
    labelled_ml: float
    centre_mm: Vector
    """x, y, z in patient coordinates."""
    contrast_hu: float
    """Its mean less that of what it replaced, before noise."""


def plan_lesion(
    dice: Dice, home: Home, frame: Frame, others: Sequence[PlannedLesion],
    swell: Callable[[Home, Form, float], Home],
) -> PlannedLesion | None:  # fmt: skip
    """Find a place for a lesion of a random volume; None when its home is not in the scan.

    Args:
        dice: The lesion's own stream.
        home: Where it may grow.
        frame: The scan's grid; the lesion lies whole within it.
        others: Lesions it must not touch.
        swell: Grows a home around a form at a level, where the kind swells its home.
    """
    volume_ml = dice.log_uniform(*VOLUME_RANGE_ML)
    while volume_ml >= VOLUME_RANGE_ML[0]:
        radius = _radius_of(volume_ml)
        for number in range(_TRIES):
            attempt = dice.child(f"{volume_ml:.3f} ml, try {number}")
            centre = _draw_centre(attempt, home, frame, radius)
            if centre is None:
                break
            if any(_touch(centre, radius, other) for other in others):
                continue
            planned = _fit(attempt, home, frame, centre, volume_ml, swell)
            if planned is not None:
                return planned
        volume_ml *= _SHRINK
        if VOLUME_RANGE_ML[0] * _SHRINK < volume_ml < VOLUME_RANGE_ML[0]:
            volume_ml = VOLUME_RANGE_ML[0]
    return None


def _radius_of(volume_ml: float) -> float:
    cubed_mm = volume_ml * 1000.0 * 0.75 / math.pi
    return float(round(cubed_mm ** (1.0 / 3.0), 4))


def _touch(centre: Vector, radius: float, other: PlannedLesion) -> bool:
    gap = 1.35 * (radius + other.radius_mm) + 3.0
    square = sum((a - b) * (a - b) for a, b in zip(centre, other.form.centre, strict=True))
    return square < gap * gap


def _draw_centre(dice: Dice, home: Home, frame: Frame, radius: float) -> Vector | None:
    """Draw a point of the home deep enough for the radius, whole in the scan."""
    mesh, distance = home.solid.mesh, home.solid.distance
    if mesh.empty:
        return None
    least, most = _DEPTH_IN_HOME[home.kind]
    depth = -(distance + home.margin_mm)
    first = frame.bottom_mm + 1.3 * radius - 0.5 * frame.slice_mm
    last = frame.bottom_mm + (frame.slices - 0.5) * frame.slice_mm - 1.3 * radius
    z_mm = mesh.z * frame.scale[2]
    fits = (depth > least * radius) & (depth < most * radius + 6.0)
    fits &= (z_mm >= first) & (z_mm <= last)
    places = np.argwhere(fits)
    if len(places) == 0:
        return None
    k, j, i = places[dice.integer(0, len(places) - 1)]
    sx, sy, sz = frame.scale
    z = float(mesh.z[k, 0, 0]) * sz
    if frame.slice_mm > radius:
        z = round((z - frame.bottom_mm) / frame.slice_mm) * frame.slice_mm + frame.bottom_mm
    return (float(mesh.x[0, 0, i]) * sx, float(mesh.y[0, j, 0]) * sy, z)


def _draw_form(dice: Dice, kind: LesionKind, centre: Vector, radius: float) -> Form:
    first, helper = dice.direction(), dice.direction()
    second = _unit(_cross(first, helper), fallback=(0.0, 0.0, 1.0))
    stretch = (dice.uniform(0.85, 1.2), dice.uniform(0.85, 1.2), 1.0)
    spiky = kind is LesionKind.LUNG and radius > 4.0 and dice.chance(0.5)
    return Form(
        centre=centre,
        axes=(first, second, _cross(first, second)),
        stretch=stretch,
        lumps=Noise(dice.child("lumps"), max(0.9 * radius, 2.0), centre=centre),
        lump_height=dice.uniform(0.10, 0.34),
        grain=Noise(dice.child("grain"), max(0.35 * radius, 1.5), centre=centre),
        grain_height=dice.uniform(0.03, 0.12),
        spikes=tuple(dice.direction() for _ in range(dice.integer(9, 18))) if spiky else (),
    )


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _unit(vector: Vector, *, fallback: Vector) -> Vector:
    length = math.sqrt(sum(v * v for v in vector))
    if length < 1e-3:
        return fallback
    return (vector[0] / length, vector[1] / length, vector[2] / length)


def patch_of(lesion: PlannedLesion, frame: Frame) -> Patch:
    """Return the voxels around a planned lesion."""
    return _patch(lesion.form, lesion.home, frame, lesion.radius_mm)


@dataclass(frozen=True)
class Patch:
    """The voxels around a lesion, with sub-slices."""

    slices: slice
    rows: slice
    columns: slice
    parts: int
    radius: Field
    """The form on (slices x parts, rows, columns)."""
    depth: Field
    """How deep in its home each of them lies, millimetres."""


def _patch(form: Form, home: Home, frame: Frame, radius: float) -> Patch:
    reach = 1.75 * radius + 3.0
    x, y, z = form.centre
    slices = frame.span_z(z - reach, z + reach)
    rows, columns = frame.span_y(y - reach, y + reach), frame.span_x(x - reach, x + reach)
    parts = max(1, math.ceil(frame.slice_mm / min(1.3, max(radius / 4.0, 0.6))))
    at = subslices(slices, parts)
    row, column = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
    z_mm, y_mm, x_mm = frame.z_mm(at), frame.y_mm(row), frame.x_mm(column)
    grown = form.at(z_mm[:, None, None], y_mm[None, :, None], x_mm[None, None])
    depth = -(sample(home.solid, at, row, column) + home.margin_mm)
    return Patch(slices, rows, columns, parts, grown, depth)


def _fit(
    dice: Dice, home: Home, frame: Frame, centre: Vector, volume_ml: float,
    swell: Callable[[Home, Form, float], Home],
) -> PlannedLesion | None:  # fmt: skip
    """Draw a form and the level of the wanted volume; None when it does not fit there."""
    radius = _radius_of(volume_ml)
    form = _draw_form(dice, home.kind, centre, radius)
    free = _level(_patch(form, home, frame, radius), frame, volume_ml, clipped=False)
    if free is None:
        return None
    if home.kind in _SWELLS:
        home = swell(home, form, free + _BULGE_MM)
    patch = _patch(form, home, frame, radius)
    level = _level(patch, frame, volume_ml, clipped=True)
    if level is None or level > _MAX_STRETCH * free:
        return None
    return PlannedLesion(home.kind, volume_ml, form, level, radius, home)


def _level(patch: Patch, frame: Frame, volume_ml: float, *, clipped: bool) -> float | None:
    """Return the warped radius that encloses the volume, counting sub-voxels."""
    values = patch.radius[patch.depth > 0.0] if clipped else patch.radius.reshape(-1)
    cell_ml = frame.pixel_mm * frame.pixel_mm * frame.slice_mm / patch.parts / 1000.0
    count = round(volume_ml / cell_ml)
    if not 0 < count < values.size:
        return None
    return float(np.partition(values, count)[count])
