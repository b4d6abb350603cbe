"""Great vessels, airways, and the branching trees of lungs and liver.

A tree grows by joining scattered targets, nearest to the root first, to the node that gives the
shortest wire plus a share of the path back to the root (Cuntz et al. 2010, PLoS Comput Biol 6(8),
"One rule to grow them all"); widths follow from the area of all branches beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.phantoms.canvas import Canvas, Tissue
from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.fields import Box, Field, Frame, Noise, Solid, tube
from data_prep.phantoms.organs import Organs
from data_prep.phantoms.patient import Enhancement
from data_prep.phantoms.torso import (
    AORTIC_ARCH,
    HILA,
    INFERIOR_CAVA,
    INFERIOR_CAVA_RADII,
    PORTAL_TRUNK,
    PORTAL_TRUNK_RADII,
    PULMONARY_LEFT,
    PULMONARY_RIGHT,
    PULMONARY_TRUNK,
    SUPERIOR_CAVA,
    Torso,
)

_LUNG_ML_PER_TWIG = 4.0
_MAX_TWIGS = 700
_LIVER_TWIGS = 55
_PATH_WEIGHT = 0.35
"""Share of the path to the root in the cost of a branch; more gives straighter trees."""

GULLET: tuple[Vector, ...] = (
    (3, 14, 235), (6, 26, 160), (8, 30, 100), (10, 20, 30), (20, 0, -22),
)  # fmt: skip
TRACHEA: tuple[Vector, ...] = ((-1.0, 2.0, 235.0), (0.0, 10.0, 160.0), (1.0, 15.0, 112.0))
DESCENDING_AORTA: tuple[Vector, ...] = (
    (24, 31, 95), (22, 29, 60), (18, 22, 20), (12, 12, -20), (7, 5, -60), (5, 0, -100),
    (4, -4, -150), (4, -5, -190),
)  # fmt: skip


@dataclass(frozen=True)
class Branch:
    """A stretch of a tree in real millimetres."""

    start: Vector
    end: Vector
    radii_mm: tuple[float, float]


def paint_great_vessels(canvas: Canvas, scan: Enhancement) -> None:
    """Paint aorta and its branches, the caval veins and the pulmonary trunk."""
    mixed = (scan.vein + scan.artery) * 0.5
    chest = Box((-60.0, 60.0), (-75.0, 60.0), (30.0, 245.0))
    belly = Box((-50.0, 60.0), (-40.0, 65.0), (-240.0, 110.0))
    iliac_split = -188.0
    plan: tuple[tuple[Box, tuple[Vector, ...], tuple[float, ...], float], ...] = (
        (chest, SUPERIOR_CAVA, (9, 9, 9), mixed),
        (chest, ((-26, -18, 140), (-30, -8, 185), (-36, 4, 225)), (7, 6, 6), mixed),
        (chest, ((-26, -18, 138), (10, -20, 152), (32, -6, 190), (38, 2, 225)), (6,) * 4, mixed),
        (chest, PULMONARY_TRUNK, (14, 13.5, 13), mixed),
        (chest, PULMONARY_RIGHT, (12, 10.5, 8), mixed),
        (chest, PULMONARY_LEFT, (12, 10.5, 8), mixed),
        (chest, AORTIC_ARCH, (15, 16, 16, 15, 14, 13, 12.5, 12, 12), scan.artery),
        (chest, ((-7, -20, 134), (-14, -10, 170), (-22, 2, 225)), (7, 6.5, 4.5), scan.artery),
        (chest, ((6, 0, 138), (13, -2, 175), (20, 2, 225)), (4, 4, 3.5), scan.artery),
        (chest, ((14, 14, 138), (24, 10, 180), (34, 10, 225)), (5, 5, 4), scan.artery),
        (belly, DESCENDING_AORTA, (12, 11.5, 11, 10.5, 10, 9, 8, 7.5), scan.artery),
        (belly, INFERIOR_CAVA, INFERIOR_CAVA_RADII, scan.vein),
        (belly, ((6, 3, -72), (5, -18, -78)), (4.5, 3.0), scan.artery),
        (belly, ((5, 1, -88), (4, -17, -100), (2, -20, -160)), (4.0, 3.6, 2.5), scan.artery),
        (belly, PORTAL_TRUNK, PORTAL_TRUNK_RADII, scan.portal_vein),
        (belly, ((-14, -18, -98), (14, -26, -93), (50, 4, -82)), (6.0, 5.0, 4.0), scan.portal_vein),
        (belly, ((5, 1, -100), (30, 22, -104), (46, 30, -106)), (3.5, 3.2, 3.0), scan.artery),
        (belly, ((4, 0, -108), (-30, 26, -116), (-46, 30, -120)), (3.5, 3.2, 3.0), scan.artery),
        (belly, ((-20, 4, -106), (-34, 20, -112), (-46, 28, -118)), (5.0, 4.5, 4.0), scan.vein),
        (belly, ((-20, 2, -98), (8, -11, -99), (46, 26, -100)), (5.0, 4.5, 4.0), scan.vein),
        (belly, ((4, 6, iliac_split), (24, 12, -240)), (6.0, 5.5), scan.artery),
        (belly, ((4, 6, iliac_split), (-18, 10, -240)), (6.0, 5.5), scan.artery),
    )  # fmt: skip
    for box, points, radii, value in plan:
        spread = max(radii) + 4.0
        tight = Box(*(
            (max(limit[0], min(p[a] for p in points) - spread),
             min(limit[1], max(p[a] for p in points) + spread))
            for a, limit in enumerate(box)
        ))  # fmt: skip
        mesh = canvas.frame.mesh(2, tight)
        if not mesh.empty:
            canvas.paint(Solid(mesh, tube(mesh, points, radii)), value, Tissue.VESSEL)


def paint_airways(canvas: Canvas, scan: Enhancement) -> None:
    """Paint trachea, main bronchi and the gullet behind them."""
    mesh = canvas.frame.mesh(2, Box((-15.0, 40.0), (-15.0, 45.0), (-30.0, 240.0)))
    if not mesh.empty:
        distance = tube(mesh, GULLET, (6.5, 6.5, 6.5, 7.0, 8.0))
        canvas.paint(Solid(mesh, distance), scan.bowel_wall - 20.0, Tissue.OTHER_ORGAN)
        canvas.paint(Solid(mesh, distance + 5.0), -450.0, opacity=0.6)
    mesh = canvas.frame.mesh(2, Box((-62.0, 62.0), (-20.0, 40.0), (40.0, 240.0)))
    if mesh.empty:
        return
    carina = TRACHEA[-1]
    right, left = HILA
    distance = np.minimum(
        tube(mesh, TRACHEA, (9.0, 9.0, 9.0)),
        np.minimum(
            tube(mesh, (carina, right, (-58.0, 4.0, 62.0)), (7.5, 5.5, 2.0)),
            tube(mesh, (carina, left, (60.0, 8.0, 66.0)), (7.0, 5.2, 2.0)),
        ),
    )
    canvas.paint(Solid(mesh, distance - 1.6), 30.0, Tissue.OTHER_ORGAN)
    canvas.paint(Solid(mesh, distance), -985.0, Tissue.AIRWAY)


def paint_lung(canvas: Canvas, torso: Torso, dice: Dice) -> None:
    """Paint lung tissue, its fissures and its vessels."""
    mesh, lungs = torso.mesh, torso.lungs
    base = dice.uniform(-880.0, -810.0)
    value = base + (mesh.y + 20.0) * 0.45 + 16.0 * Noise(dice.child("patches"), 22.0).on(mesh)
    canvas.paint(Solid(mesh, lungs), value, Tissue.LUNG)
    fine = 0.7 * mesh.z - 0.72 * mesh.y - 5.0 + 4.0 * Noise(dice.child("fissure"), 40.0).on(mesh)
    sheet = np.maximum(np.abs(fine + np.where(mesh.x > 0, -6.0, 6.0)) - 0.7, lungs + 2.0)
    canvas.paint(Solid(mesh, sheet), base + 190.0, opacity=0.55, blur_mm=1.6)
    for side, hilum in zip((-1.0, 1.0), HILA, strict=True):
        inside = np.argwhere((lungs < -5.0) & (mesh.x * side > 0))
        cell_ml = (mesh.step * canvas.frame.pixel_mm) ** 2 * canvas.frame.slice_mm / 1000.0
        count = min(int(len(inside) * cell_ml / _LUNG_ML_PER_TWIG), _MAX_TWIGS)
        grown = grow_tree(
            dice.child(f"tree{side}"), _scaled(hilum, canvas.frame), inside, canvas.frame,
            count=count, step=mesh.step, twig_mm=0.7, top_mm=6.5,
        )  # fmt: skip
        for branch in grown:
            canvas.paint_rod(branch.start, branch.end, branch.radii_mm, 38.0)


def paint_liver_vessels(canvas: Canvas, organs: Organs, scan: Enhancement, dice: Dice) -> None:
    """Paint the portal tree and the veins that drain into the inferior vena cava."""
    liver = organs.liver
    if liver.mesh.empty:
        return
    inside = np.argwhere(liver.distance < -5.0) + np.array([liver.mesh.slices.start, 0, 0])
    inside[:, 1] += liver.mesh.rows.start // 4
    inside[:, 2] += liver.mesh.columns.start // 4
    for name, root, value in (
        ("portal", (-36.0, -10.0, -76.0), scan.portal_vein),
        ("hepatic", (-26.0, 4.0, -8.0), scan.vein),
    ):
        grown = grow_tree(
            dice.child(name), _scaled(root, canvas.frame), inside, canvas.frame,
            count=min(_LIVER_TWIGS, len(inside) // 60), step=4, twig_mm=0.9, top_mm=5.5,
        )  # fmt: skip
        for branch in grown:
            canvas.paint_rod(branch.start, branch.end, branch.radii_mm, value)


def grow_tree(
    dice: Dice, root: Vector, inside: Field, frame: Frame, *,
    count: int, step: int, twig_mm: float, top_mm: float,
) -> list[Branch]:  # fmt: skip
    """Grow a vessel tree from ``root`` to ``count`` random targets.

    Args:
        dice: The tree's own stream.
        root: Where the tree enters, real millimetres.
        inside: (n, 3) whole-scan mesh indices (slice, row, column) the targets are drawn from.
        frame: The scan's grid.
        count: Number of targets.
        step: Pixels between mesh samples.
        twig_mm: Radius of the last branches.
        top_mm: Largest radius.
    """
    if count < 1:
        return []
    picks = inside[(dice.units(count) * len(inside)).astype(np.int64)]
    jitter = dice.units(3 * count).reshape(3, count) - 0.5
    points = np.empty((count + 1, 3), np.float64)
    points[0] = root
    points[1:, 0] = frame.x_mm((picks[:, 2] + jitter[0]) * step)
    points[1:, 1] = frame.y_mm((picks[:, 1] + jitter[1]) * step)
    points[1:, 2] = frame.z_mm(picks[:, 0] + jitter[2])
    from_root = points[1:] - points[0]
    order = np.argsort(_lengths(from_root), kind="stable")
    points[1:] = points[1:][order]
    parent = np.zeros(count + 1, np.int64)
    path = np.zeros(count + 1)
    for node in range(1, count + 1):
        wire = _lengths(points[:node] - points[node])
        best = int(np.argmin(wire + _PATH_WEIGHT * path[:node]))
        parent[node] = best
        path[node] = path[best] + wire[best]
    area = np.full(count + 1, twig_mm * twig_mm)
    for node in range(count, 0, -1):
        area[parent[node]] += area[node] * 0.96
    radius = np.minimum(np.sqrt(area), top_mm)
    return [
        _branch(points[parent[n]], points[n], float(radius[parent[n]]), float(radius[n]))
        for n in range(1, count + 1)
    ]


def _branch(start: Field, end: Field, radius_start: float, radius_end: float) -> Branch:
    a = (float(start[0]), float(start[1]), float(start[2]))
    b = (float(end[0]), float(end[1]), float(end[2]))
    return Branch(a, b, (min(radius_start, 1.25 * radius_end), radius_end))


def _lengths(vectors: Field) -> Field:
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    lengths: Field = np.sqrt((x * x + y * y) + z * z)
    return lengths


def _scaled(point: Vector, frame: Frame) -> Vector:
    sx, sy, sz = frame.scale
    return (point[0] * sx, point[1] * sy, point[2] * sz)
