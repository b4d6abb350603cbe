"""The body wall: skin, fat, muscle, the cavity inside the ribs, diaphragm, lungs, mediastinum.

All are distances on the whole scan at every fourth pixel; organs fit themselves into them, so the
liver touches the ribs and the lungs hug the diaphragm as they do in people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.fields import (
    FAR_MM,
    Field,
    Frame,
    Mesh,
    Noise,
    ellipsoid,
    profile,
    smooth_max,
    smooth_min,
    tube,
)
from data_prep.phantoms.patient import Patient

MUSCLE_HALF_WIDTH = ((-230, 146), (-190, 134), (-120, 138), (-40, 148), (60, 150), (140, 150),
                     (185, 150), (230, 136))  # fmt: skip
"""z -> half-width of the torso under its fat, millimetres."""

MUSCLE_HALF_DEPTH = ((-230, 98), (-150, 98), (-60, 103), (20, 105), (100, 100), (170, 88),
                     (230, 72))  # fmt: skip

CAVITY_HALF_WIDTH = ((-230, 122), (-160, 117), (-80, 121), (0, 129), (80, 128), (130, 120),
                     (170, 100), (200, 76), (222, 48), (240, 30))  # fmt: skip
"""z -> half-width of the space inside ribs and abdominal wall."""

CAVITY_HALF_DEPTH = ((-230, 84), (-150, 86), (-60, 92), (20, 93), (100, 86), (160, 70),
                     (200, 52), (222, 38), (240, 26))  # fmt: skip

CAVITY_CENTRE_Y = ((-230, -9), (-60, -7), (60, -7), (140, 0), (200, 12), (235, 18))

SPINE_CENTRE_Y = ((-230, 22), (-150, 24), (-60, 30), (20, 37), (90, 42), (160, 40), (230, 26))
"""z -> y of the middle of the vertebral bodies."""

AORTIC_ARCH: tuple[Vector, ...] = (
    (2, -22, 62), (-4, -32, 85), (-9, -34, 105), (-8, -26, 122), (2, -8, 136), (13, 10, 138),
    (21, 25, 128), (24, 30, 110), (24, 31, 80),
)  # fmt: skip
PULMONARY_TRUNK: tuple[Vector, ...] = ((18, -42, 66), (17, -34, 84), (12, -14, 97))
PULMONARY_RIGHT: tuple[Vector, ...] = ((12, -14, 97), (-14, -3, 94), (-40, 3, 88))
PULMONARY_LEFT: tuple[Vector, ...] = ((12, -14, 97), (26, -2, 102), (42, 8, 97))
SUPERIOR_CAVA: tuple[Vector, ...] = ((-24, -14, 50), (-27, -16, 80), (-26, -18, 140))
INFERIOR_CAVA: tuple[Vector, ...] = (
    (-24, -12, 34), (-25, -8, 16), (-26, 0, -10), (-25, 6, -50), (-20, 4, -100), (-17, 0, -190),
)  # fmt: skip
INFERIOR_CAVA_RADII = (12.0, 12.0, 12.0, 11.5, 10.5, 9.5)
PORTAL_TRUNK: tuple[Vector, ...] = (
    (-8, -18, -165),
    (-10, -18, -115),
    (-14, -18, -98),
    (-34, -12, -78),
)
PORTAL_TRUNK_RADII = (5.0, 6.0, 7.0, 6.5)
"""Superior mesenteric and portal vein, up to where it divides in the liver."""

HILA: tuple[Vector, Vector] = ((-40, 4, 84), (42, 6, 92))
"""Where vessels and bronchi enter the right and the left lung."""

HEART_CENTRE: Vector = (22, -36, 30)
HEART_RADII: Vector = (60, 44, 45)

DIAPHRAGM_HALF_MM = 1.6
"""Half the thickness of the diaphragm muscle."""


@dataclass(frozen=True)
class Torso:
    """Distances of the body wall on the whole scan at every fourth pixel."""

    mesh: Mesh
    body: Field
    muscle: Field
    cavity: Field
    diaphragm: Field
    """Height over the diaphragm's dome as a distance: negative above it."""
    lungs: Field
    table_top_y: float


def build_torso(patient: Patient, frame: Frame) -> Torso:
    """Evaluate the body wall of a patient on a scan's grid."""
    mesh = frame.mesh(4)
    dice = patient.seed_dice.child("torso")
    muscle, cavity = _muscle(mesh, patient, dice), _cavity(mesh, patient, dice)
    body, table_top_y = _body(mesh, patient, muscle, dice)
    diaphragm = _diaphragm(mesh, dice)
    mediastinum = _mediastinum(mesh, dice)
    above = diaphragm + DIAPHRAGM_HALF_MM
    lungs = smooth_max(smooth_max(cavity + 3.0, above, 6.0), -mediastinum, 5.0)
    return Torso(mesh, body, muscle, cavity, diaphragm, lungs, table_top_y)


def _oval(mesh: Mesh, half_width: Field, half_depth: Field, centre_y: Field | float) -> Field:
    """Distance to a stack of ovals, a little squarer than ellipses."""
    x, y = mesh.x / half_width, (mesh.y - centre_y) / half_depth
    x2, y2 = x * x, y * y
    square = x2 + y2
    corner = x2 * y2 / np.maximum(square, 1e-4)
    radius = np.sqrt(np.maximum(square - 0.30 * corner, 1e-6))
    gradient = np.sqrt(x2 / (half_width * half_width) + y2 / (half_depth * half_depth))
    distance: Field = (radius - 1.0) * np.sqrt(square) / np.maximum(gradient, 1e-4)
    return distance


def _muscle(mesh: Mesh, patient: Patient, dice: Dice) -> Field:
    half_width, half_depth = profile(mesh.z, MUSCLE_HALF_WIDTH), profile(mesh.z, MUSCLE_HALF_DEPTH)
    belly = profile(mesh.z, ((-230, 0.8), (-130, 1.0), (-40, 0.3), (20, 0.0))) * patient.belly
    flat = (1.0 - patient.belly) * _waist(mesh)
    half_depth = half_depth + 7.0 * belly - 9.0 * flat
    oval = _oval(mesh, half_width + 5.0 * belly, half_depth, 3.0 - 7.0 * belly + 9.0 * flat)
    oval = smooth_max(oval, mesh.y - 107.0, 22.0)
    furrow = 7.0 - np.sqrt(mesh.x * mesh.x * 0.16 + (mesh.y - 110.0) * (mesh.y - 110.0))
    oval = smooth_max(oval, np.broadcast_to(furrow, mesh.shape), 14.0)
    return oval + Noise(dice.child("muscle"), 45.0).on(mesh) * 2.5


def _waist(mesh: Mesh) -> Field:
    return profile(mesh.z, ((-230, 0.7), (-150, 1.0), (-60, 0.2), (0, 0.0)))


def _body(mesh: Mesh, patient: Patient, muscle: Field, dice: Dice) -> tuple[Field, float]:
    """Return the skin's distance and the y of the table top the back is pressed flat on."""
    lower = profile(mesh.z, ((-230, 1.25), (-120, 1.1), (0, 0.8), (120, 0.7), (230, 0.75)))
    x, y = mesh.x / 150.0, mesh.y / 105.0
    radius2 = np.maximum(x * x + y * y, 1e-4)
    front = np.maximum(-y, 0.0)
    back = np.maximum(y, 0.0)
    side = x * x
    fat = (
        patient.fat_side_mm * side
        + patient.fat_front_mm * front * front
        + patient.fat_back_mm * back * back
    ) / radius2
    body = muscle - fat * lower - 2.5
    if patient.female:
        for side_x in (-74.0, 74.0):
            size = 0.8 + 0.012 * patient.fat_front_mm
            breast = ellipsoid(mesh, (side_x, -92.0, 78.0), (50 * size, 40 * size, 52 * size))
            body = smooth_min(body, breast, 25.0)
    body = body + Noise(dice.child("skin"), 60.0).on(mesh) * 2.0
    table_top_y = 106.0 + 0.75 * patient.fat_back_mm
    return smooth_max(body, mesh.y - table_top_y, 14.0), table_top_y


def _cavity(mesh: Mesh, patient: Patient, dice: Dice) -> Field:
    belly = profile(mesh.z, ((-230, 0.8), (-130, 1.0), (-40, 0.3), (20, 0.0))) * patient.belly
    flat = (1.0 - patient.belly) * _waist(mesh)
    cavity = _oval(
        mesh,
        profile(mesh.z, CAVITY_HALF_WIDTH) + 6.0 * belly,
        profile(mesh.z, CAVITY_HALF_DEPTH) + 7.0 * belly - 9.0 * flat,
        profile(mesh.z, CAVITY_CENTRE_Y) - 7.0 * belly + 9.0 * flat,
    )
    spine_y = profile(mesh.z, SPINE_CENTRE_Y)
    y = mesh.y - spine_y
    back = np.maximum(y - 8.0, 0.0)
    front = np.minimum(y, 0.0)
    muscle = profile(mesh.z, ((-210, 16.0), (-150, 9.0), (-100, 1.0), (0, 0.0)))
    spine = np.sqrt(mesh.x * mesh.x + front * front * 0.9) - 22.5 - muscle - 0.28 * back
    cavity = smooth_max(cavity, -spine, 16.0)
    return cavity + Noise(dice.child("cavity"), 50.0).on(mesh) * 1.5


def _diaphragm(mesh: Mesh, dice: Dice) -> Field:
    height: Field = np.full((1, mesh.shape[1], mesh.shape[2]), -112.0, np.float32)
    domes = (
        (-66.0, -18.0, dice.uniform(-3.0, 3.0), 78.0, 88.0, 105.0),
        (70.0, -18.0, dice.uniform(-22.0, -6.0), 74.0, 88.0, 98.0),
        (10.0, -40.0, dice.uniform(-26.0, -18.0), 85.0, 70.0, 90.0),
    )
    for centre_x, centre_y, top, radius_x, radius_y, drop in domes:
        x, y = (mesh.x - centre_x) / radius_x, (mesh.y - centre_y) / radius_y
        square = x * x + y * y
        dome = top - drop * square * (0.45 + 0.55 * square)
        height = smooth_max(height, np.maximum(dome, -300.0), 12.0)
    height = (
        height
        + Noise(dice.child("diaphragm"), 40.0).at(np.zeros(1), mesh.y[0, :, 0], mesh.x[0, 0]) * 3.0
    )
    pitch = np.float32(mesh.x[0, 0, 1] - mesh.x[0, 0, 0])
    slope_y = np.zeros_like(height)
    slope_x = np.zeros_like(height)
    slope_y[:, 1:-1] = (height[:, 2:] - height[:, :-2]) / (2 * pitch)
    slope_x[:, :, 1:-1] = (height[:, :, 2:] - height[:, :, :-2]) / (2 * pitch)
    steep = np.minimum(slope_x * slope_x + slope_y * slope_y, 16.0)
    distance: Field = (height - mesh.z) / np.sqrt(1.0 + steep)
    return distance


def _mediastinum(mesh: Mesh, dice: Dice) -> Field:
    """Everything between the lungs: heart, great vessels and the fat around them."""
    out = heart_distance(mesh) - 7.0
    for points, radius in (
        (AORTIC_ARCH, 18.0), (PULMONARY_TRUNK, 18.0), (SUPERIOR_CAVA, 14.0),
        (PULMONARY_RIGHT[:2], 15.0), (PULMONARY_LEFT[:2], 15.0),
    ):  # fmt: skip
        out = smooth_min(out, tube(mesh, points, (radius,) * len(points)), 10.0)
    depth = np.clip((mesh.y + 85.0) * (1.0 / 60.0), 0.0, 1.0)
    breadth = profile(mesh.z, ((-120, 20), (40, 20), (150, 20), (190, 28), (230, 30)))
    half_width = 4.0 + depth * breadth
    out = smooth_min(out, np.abs(mesh.x - 2.0) - half_width, 14.0)
    aorta = np.sqrt((mesh.x - 22.0) * (mesh.x - 22.0) + (mesh.y - 30.0) * (mesh.y - 30.0)) - 17.0
    out = smooth_min(out, np.maximum(aorta, mesh.z - 125.0), 8.0)
    out = out + Noise(dice.child("mediastinum"), 22.0).on(mesh) * 2.5
    return np.minimum(out, FAR_MM)


def heart_distance(mesh: Mesh) -> Field:
    """Distance to the outside of the heart muscle."""
    x, y, z = (mesh.x - HEART_CENTRE[0], mesh.y - HEART_CENTRE[1], mesh.z - HEART_CENTRE[2])
    long = (x * 0.80 - y * 0.48) - z * 0.36
    across = x * 0.51 + y * 0.86
    up = (x * 0.31 - y * 0.18) + z * 0.93
    parts = tuple((a * (1.0 / r)) * (a * (1.0 / r)) for a, r in zip(
        (long, across, up), (64.0, 44.0, 43.0), strict=True))  # fmt: skip
    k0 = np.sqrt((parts[0] + parts[1]) + parts[2])
    return (k0 - 1.0) * 46.0
