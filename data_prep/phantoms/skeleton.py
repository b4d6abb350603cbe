"""Spine, ribs, sternum and shoulder blades, with a dense shell and a spongy inside."""

from __future__ import annotations

import numpy as np

from data_prep.phantoms.canvas import Canvas, Tissue, solid_of
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.fields import (
    FAR_MM,
    Box,
    Field,
    Frame,
    Mesh,
    Noise,
    Solid,
    profile,
    smooth_max,
    smooth_min,
    turned_ellipsoid,
)
from data_prep.phantoms.torso import CAVITY_CENTRE_Y, CAVITY_HALF_DEPTH, SPINE_CENTRE_Y, Torso

RIB_PITCH_MM = 25.0
RIB_DROP_MM = 92.0
"""How much lower a rib's front end is than its back end."""

VERTEBRA_PITCH_MM = 30.0
CORTEX_HU = 520.0
SPONGY_HU = 190.0
CARTILAGE_HU = 105.0
DISC_HU = 80.0
CORD_HU = 38.0
CANAL_HU = 18.0

_SHELL_MM = 1.8
"""Thickness of dense bone around a vertebra, a rib or the sternum."""


def build_bones(torso: Torso, frame: Frame) -> list[Solid]:
    """Return the distances of ribs, sternum, shoulder blades and spine, in painting order."""
    cavity = Solid(torso.mesh, torso.cavity)
    bones = [_ribs(cavity, frame), _sternum(cavity, frame)]
    bones += [_shoulder_blade(frame, side) for side in (-1.0, 1.0)]
    bones.append(_spine(frame))
    return [bone for bone in bones if not bone.mesh.empty]


def paint_bones(canvas: Canvas, bones: list[Solid], dice: Dice) -> None:
    """Paint bones as shell and spongy inside; discs, cord and rib cartilage with them."""
    _paint_discs(canvas)
    grain = Noise(dice.child("marrow"), 3.5)
    age = dice.uniform(-50.0, 40.0)
    for bone in bones:
        canvas.paint(bone, CORTEX_HU + age, Tissue.BONE)
        inside = Solid(bone.mesh, bone.distance + _SHELL_MM)
        canvas.paint(inside, SPONGY_HU + age + 45.0 * grain.on(bone.mesh), Tissue.BONE)
    _paint_cord(canvas)


def _ribs(cavity: Solid, frame: Frame) -> Solid:
    wall = cavity.refined(Box((-1e4, 1e4), (-1e4, 1e4), (-145.0, 222.0)), frame)
    mesh = wall.mesh
    if mesh.empty:
        return wall
    y = mesh.y - profile(mesh.z, CAVITY_CENTRE_Y)
    y_spine = mesh.y - profile(mesh.z, SPINE_CENTRE_Y)
    radius = np.sqrt(mesh.x * mesh.x * 0.5 + y * y)
    front = (1.0 - y / np.maximum(radius, 1.0)) * 0.5
    slant = 0.4 * front + 0.6 * np.sqrt(front)
    drop = RIB_DROP_MM * (slant - 1.6 * np.maximum(front - 0.8, 0.0))
    count = (mesh.z + drop) * (1.0 / RIB_PITCH_MM)
    height = (count - np.rint(count)) * RIB_PITCH_MM * 0.85
    depth = (wall.distance - 5.5) * (1.0 / 3.6)
    height *= 1.0 / 6.2
    distance = (np.sqrt(depth * depth + height * height) - 1.0) * 4.0
    margin = np.maximum(-85.0 - 110.0 * front, -140.0 + (front - 0.5) * 290.0)
    distance = np.maximum(distance, margin - mesh.z)
    distance = np.maximum(distance, 15.0 - np.abs(mesh.x))
    beside_spine = np.maximum(np.abs(mesh.x) - 33.0, y_spine - 14.0)
    distance = np.maximum(distance, -beside_spine)
    return Solid(mesh, distance)


def paint_rib_cartilage(canvas: Canvas, ribs: Solid) -> None:
    """Turn the front ends of the ribs, already painted as bone, into cartilage."""
    mesh = ribs.mesh
    y = mesh.y - profile(mesh.z, CAVITY_CENTRE_Y)
    radius = np.sqrt(mesh.x * mesh.x * 0.5 + y * y)
    behind = (y / np.maximum(radius, 1.0) + 0.72) * 30.0
    canvas.paint(Solid(mesh, np.maximum(ribs.distance, behind)), CARTILAGE_HU, Tissue.MUSCLE)


def _sternum(cavity: Solid, frame: Frame) -> Solid:
    wall = cavity.refined(Box((-40.0, 40.0), (-150.0, -20.0), (-10.0, 178.0)), frame)
    mesh = wall.mesh
    if mesh.empty:
        return wall
    half_width = profile(mesh.z, ((0, 9), (40, 15), (110, 14), (140, 22), (170, 26)))
    x = mesh.x / half_width
    depth = (wall.distance - 9.0) * (1.0 / 6.0)
    distance = (np.sqrt(np.sqrt(x * x * x * x + depth * depth * depth * depth)) - 1.0) * 6.0
    distance = smooth_max(distance, np.abs(mesh.z - 85.0) - 84.0, 6.0)
    front = (mesh.y - profile(mesh.z, CAVITY_CENTRE_Y)) + 0.5 * profile(mesh.z, CAVITY_HALF_DEPTH)
    return Solid(mesh, np.maximum(distance, front))


def _shoulder_blade(frame: Frame, side: float) -> Solid:
    far = (45.0 * side, 155.0 * side)
    mesh = frame.mesh(2, Box((min(far), max(far)), (20, 110), (85, 240)))
    if mesh.empty:
        return Solid(mesh, np.empty(mesh.shape, np.float32))
    along, across = (0.80 * side, -0.60, 0.0), (0.60 * side, 0.80, 0.0)
    blade = turned_ellipsoid(
        mesh, (91.0 * side, 66.0, 168.0), (38.0, 3.2, 64.0), (along, across, (0.0, 0.0, 1.0))
    )
    spine = turned_ellipsoid(
        mesh, (91.0 * side, 73.0, 200.0), (28.0, 9.0, 4.5), (along, across, (0.0, 0.0, 1.0))
    )
    return solid_of(mesh, smooth_min(blade, spine, 3.0))


def _spine_mesh(frame: Frame) -> Mesh:
    return frame.mesh(2, Box((-52.0, 52.0), (0.0, 125.0), (-1e4, 1e4)))


def _levels(mesh: Mesh) -> tuple[Field, Field, Field]:
    """Return per slice: height over the middle of its vertebra, half-width and half-depth."""
    count = mesh.z * (1.0 / VERTEBRA_PITCH_MM)
    height = (count - np.rint(count)) * VERTEBRA_PITCH_MM
    half_width = profile(mesh.z, ((-220, 25), (-100, 22), (0, 18), (120, 15.5), (230, 15)))
    half_depth = profile(mesh.z, ((-220, 17), (-100, 16), (0, 15), (120, 12.5), (230, 10)))
    return height, half_width, half_depth


def _body_outline(mesh: Mesh) -> Field:
    """Distance to the stack of vertebral bodies and discs, flattened towards the canal."""
    height, half_width, half_depth = _levels(mesh)
    y = mesh.y - profile(mesh.z, SPINE_CENTRE_Y)
    waist = 1.0 - 0.07 * np.maximum(1.0 - height * height * (1.0 / 130.0), 0.0)
    k_x, k_y = mesh.x / (half_width * waist), y / (half_depth * waist)
    radius = np.sqrt(k_x * k_x + k_y * k_y)
    oval = (radius - 1.0) * half_depth
    canal = half_depth + 7.0 - np.sqrt(mesh.x * mesh.x * 0.7 + (y - 2.0 * half_depth) ** 2)
    return smooth_max(oval, canal, 4.0)


def _spine(frame: Frame) -> Solid:
    mesh = _spine_mesh(frame)
    if mesh.empty:
        return Solid(mesh, np.empty(mesh.shape, np.float32))
    height, _, half_depth = _levels(mesh)
    y = mesh.y - profile(mesh.z, SPINE_CENTRE_Y)
    outline = _body_outline(mesh)
    flat = np.abs(height) - (VERTEBRA_PITCH_MM / 2 - 3.2)
    bodies = smooth_max(outline, np.broadcast_to(flat, mesh.shape), 2.0)
    side = np.abs(mesh.x)
    rear = y - half_depth - 8.5
    ring = np.abs(np.sqrt(mesh.x * mesh.x * 0.8 + rear * rear) - 11.5) - 2.6
    arch = np.maximum(ring, np.abs(height - 1.0) - 10.0)
    arch = np.maximum(arch, 3.0 - half_depth - rear)
    lumbar = profile(mesh.z, ((-120, 1.0), (-60, 0.0)))
    reach_x, reach_y = side - 9.0, rear - 5.0 + (1.0 - lumbar) * (9.0 - 0.55 * side)
    process = np.sqrt(reach_y * reach_y + (height - 3.0) * (height - 3.0)) - 4.2
    process = np.maximum(process, np.abs(reach_x - 10.0) - 11.0)
    facet = np.sqrt((side - 13.0) * (side - 13.0) + (rear - 8.0) * (rear - 8.0)) - 5.0
    facet = np.maximum(facet, VERTEBRA_PITCH_MM / 2 - 8.0 - np.abs(height))
    spinous = np.maximum(side - 2.6, np.abs(rear - 19.0) - 9.0)
    spinous = np.maximum(spinous, np.abs(height + 5.0 + 0.25 * (rear - 12.0)) - 8.5)
    out = bodies
    for part in (arch, process, facet, spinous):
        out = smooth_min(out, np.broadcast_to(part, mesh.shape), 2.5)
    return Solid(mesh, out)


def _paint_discs(canvas: Canvas) -> None:
    mesh = _spine_mesh(canvas.frame)
    if not mesh.empty:
        canvas.paint(Solid(mesh, _body_outline(mesh)), DISC_HU, Tissue.OTHER_ORGAN)


def _paint_cord(canvas: Canvas) -> None:
    mesh = canvas.frame.mesh(2, Box((-20.0, 20.0), (20.0, 100.0), (-1e4, 1e4)))
    if mesh.empty:
        return
    _, _, half_depth = _levels(mesh)
    rear = mesh.y - profile(mesh.z, SPINE_CENTRE_Y) - half_depth - 8.5
    radius = np.sqrt(mesh.x * mesh.x * 0.8 + rear * rear)
    canvas.paint(solid_of(mesh, radius - 8.6), CANAL_HU, Tissue.OTHER_ORGAN)
    thin = profile(mesh.z, ((-110, 0.0), (-60, 4.8)))
    canvas.paint(solid_of(mesh, np.minimum(radius - thin, FAR_MM)), CORD_HU, Tissue.OTHER_ORGAN)
