"""Stomach, colon and small bowel: tubes of wall filled with fluid, stool and gas.

The patient lies on the back, so gas rises to the front and leaves a level over the fluid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from data_prep.phantoms.canvas import Canvas, Tissue
from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.fields import Box, Field, Mesh, Noise, Solid, resample, tube
from data_prep.phantoms.patient import Enhancement, Patient
from data_prep.phantoms.torso import DIAPHRAGM_HALF_MM, Torso

GAS_HU = -960.0
_WALL_MM = 2.2
_LOOPS = 64
"""Loops of small bowel."""


def paint_bowel(canvas: Canvas, patient: Patient, torso: Torso, scan: Enhancement) -> None:
    """Paint small bowel, colon and stomach, in this order."""
    dice = patient.seed_dice.child("bowel")
    for number in range(_LOOPS):
        _paint_loop(canvas, torso, scan, dice.child(f"loop{number}"))
    _paint_mesentery(canvas, scan, dice.child("mesentery"))
    _paint_colon(canvas, patient, torso, scan, dice.child("colon"))
    _paint_stomach(canvas, patient, torso, scan, dice.child("stomach"))


def _paint_hollow(
    canvas: Canvas, mesh: Mesh, distance: Field, *, wall: float, content: float | Field,
    gas_level: float | Field,
) -> None:  # fmt: skip
    """Paint a hollow organ whose gas fills everything in front of ``gas_level`` (a y)."""
    canvas.paint(Solid(mesh, distance), wall, Tissue.BOWEL)
    inside = distance + _WALL_MM
    canvas.paint(Solid(mesh, inside), content, Tissue.BOWEL)
    gas = np.maximum(inside, mesh.y - gas_level)
    canvas.paint(Solid(mesh, gas), GAS_HU, Tissue.GAS)


def _box_around(points: Sequence[Vector], margin: float) -> Box:
    x, y, z = (
        (min(p[a] for p in points) - margin, max(p[a] for p in points) + margin) for a in range(3)
    )
    return Box(x, y, z)


def _within(torso: Torso, mesh: Mesh, distance: Field, *, gap_mm: float) -> Field:
    """Clip a distance to the abdominal space."""
    room = np.maximum(torso.cavity + gap_mm, DIAPHRAGM_HALF_MM + gap_mm - torso.diaphragm)
    return np.maximum(distance, resample(Solid(torso.mesh, room), mesh))


def _paint_loop(canvas: Canvas, torso: Torso, scan: Enhancement, dice: Dice) -> None:
    start = (dice.uniform(-78.0, 78.0), dice.uniform(-72.0, 0.0), dice.uniform(-235.0, -112.0))
    start = (start[0], start[1], min(start[2], -112.0 - 0.25 * (start[0] + 20.0) * 0.5))
    heading = dice.direction()
    points: list[Vector] = [start]
    for _ in range(dice.integer(3, 6)):
        turn = dice.direction()
        heading = (
            0.55 * heading[0] + 0.6 * turn[0],
            0.55 * heading[1] + 0.45 * turn[1],
            0.55 * heading[2] + 0.45 * turn[2],
        )
        last = points[-1]
        points.append((
            min(max(last[0] + 22.0 * heading[0], -85.0), 85.0),
            min(max(last[1] + 22.0 * heading[1], -76.0), 6.0),
            min(last[2] + 22.0 * heading[2], -105.0),
        ))  # fmt: skip
    radii = [dice.uniform(9.0, 14.0) for _ in points]
    content = dice.uniform(8.0, 45.0)
    gassy = dice.chance(0.2)
    level = dice.uniform(-3.0, 6.0)
    mesh = canvas.frame.mesh(2, _box_around(points, 15.0))
    if mesh.empty:
        return
    distance = _within(torso, mesh, tube(mesh, points, radii), gap_mm=4.0)
    distance = distance + Noise(dice.child("folds"), 6.0).on(mesh) * 1.2
    gas = min(p[1] for p in points) + level - (0.0 if gassy else 99.0)
    _paint_hollow(canvas, mesh, distance, wall=scan.bowel_wall, content=content, gas_level=gas)


def _paint_mesentery(canvas: Canvas, scan: Enhancement, dice: Dice) -> None:
    """Paint the small vessels that fan out to the bowel."""
    sx, sy, sz = canvas.frame.scale
    for _ in range(70):
        root = (dice.uniform(-8.0, 12.0), -12.0, dice.uniform(-170.0, -100.0))
        way = dice.direction()
        length = dice.uniform(30.0, 75.0)
        tip = (
            root[0] + way[0] * length,
            root[1] - abs(way[1]) * 0.7 * length,
            root[2] - abs(way[2]) * 0.6 * length,
        )
        middle = dice.near(_between(root, tip), spread_mm=6.0)
        line = [(p[0] * sx, p[1] * sy, p[2] * sz) for p in (root, middle, tip)]
        value = (scan.portal_vein + scan.artery) * 0.5
        canvas.paint_rod(line[0], line[1], (1.9, 1.5), value)
        canvas.paint_rod(line[1], line[2], (1.5, 1.0), value)


def _between(a: Vector, b: Vector) -> Vector:
    return (0.5 * (a[0] + b[0]), 0.5 * (a[1] + b[1]), 0.5 * (a[2] + b[2]))


def _paint_colon(
    canvas: Canvas, patient: Patient, torso: Torso, scan: Enhancement, dice: Dice
) -> None:
    sag = dice.uniform(0.0, 40.0)
    shift = patient.organ_shift
    parts: tuple[tuple[Vector, ...], ...] = (
        ((-94, 8, -245), (-98, 14, -200), (-98, 16, -168), (-88, 2, -146)),
        ((-86, -12, -142), (-62, -56, -146 - 0.5 * sag), (-20, -74, -150 - sag),
         (30, -72, -142 - sag), (66, -50, -118 - 0.4 * sag), (92, -14, -96)),
        ((98, 6, -92), (106, 28, -118), (106, 32, -170), (100, 22, -245)),
    )  # fmt: skip
    for number, line in enumerate(parts):
        own = dice.child(f"part{number}")
        points = [(x + 0.5 * shift[0], y, z + shift[2]) for x, y, z in _resampled(line, 13.0)]
        wide = (21.0, 18.0, 15.0)[number]
        radii = [wide * own.uniform(0.74, 1.1) for _ in points]
        mesh = canvas.frame.mesh(2, _box_around(points, 26.0))
        if mesh.empty:
            continue
        distance = _within(torso, mesh, tube(mesh, points, radii), gap_mm=4.0)
        distance = distance + Noise(own.child("haustra"), 11.0).on(mesh) * 2.0
        crumbs = Noise(own.child("stool"), 5.0).on(mesh)
        stool = 20.0 + 55.0 * crumbs - 320.0 * np.maximum(crumbs - 0.35, 0.0) * 2.0
        gas_depth = own.uniform(-16.0, 4.0) if number != 1 else own.uniform(-8.0, 14.0)
        axis_y = sum(p[1] for p in points) / len(points) if number != 1 else -62.0
        waves = 7.0 * Noise(own.child("level"), 30.0).at(mesh.z, np.zeros(1), mesh.x.reshape(-1))
        _paint_hollow(
            canvas, mesh, distance, wall=scan.bowel_wall, content=stool,
            gas_level=axis_y + gas_depth + waves,
        )  # fmt: skip


def _paint_stomach(
    canvas: Canvas, patient: Patient, torso: Torso, scan: Enhancement, dice: Dice
) -> None:
    full = dice.uniform(0.75, 1.15)
    shift = patient.organ_shift
    line: tuple[Vector, ...] = (
        (56, 18, -34), (66, 8, -52), (68, -16, -74), (58, -40, -98), (34, -54, -114),
        (4, -52, -118), (-18, -38, -112),
    )  # fmt: skip
    points = [(x + shift[0], y, z + shift[2]) for x, y, z in line]
    radii = [r * full for r in (25.0, 31.0, 28.0, 24.0, 20.0, 15.0, 9.0)]
    mesh = canvas.frame.mesh(2, _box_around(points, 36.0))
    if mesh.empty:
        return
    distance = _within(torso, mesh, tube(mesh, points, radii), gap_mm=4.0)
    distance = distance + Noise(dice.child("folds"), 8.0).on(mesh) * 1.8
    meal = Noise(dice.child("meal"), 6.0).on(mesh)
    content = dice.uniform(5.0, 35.0) + dice.uniform(0.0, 30.0) * meal
    canvas.paint(Solid(mesh, distance), scan.bowel_wall, Tissue.BOWEL)
    canvas.paint(Solid(mesh, distance + 3.5), content, Tissue.BOWEL)
    level = dice.uniform(-52.0, -22.0)
    gas = np.maximum(distance + 3.5, mesh.y - level)
    canvas.paint(Solid(mesh, gas), GAS_HU, Tissue.GAS)


def _resampled(points: Sequence[Vector], pitch: float) -> list[Vector]:
    """Return a chain through ``points`` with links of about ``pitch`` millimetres."""
    out = [points[0]]
    for a, b in itertools.pairwise(points):
        way = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
        length = abs(way[0]) + abs(way[1]) + abs(way[2])
        count = max(1, int(length / (1.4 * pitch)))
        for k in range(1, count + 1):
            t = k / count
            out.append((a[0] + t * way[0], a[1] + t * way[1], a[2] + t * way[2]))
    return out
