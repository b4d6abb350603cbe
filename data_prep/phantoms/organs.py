"""Solid organs of the abdomen and the heart, fitted into the torso.

Shapes come before painting, because a tumour can swell the kidney that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.phantoms.canvas import Canvas, Tissue, solid_of
from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.fields import (
    Box,
    Field,
    Frame,
    Mesh,
    Noise,
    Solid,
    ellipsoid,
    resample,
    smooth_max,
    tube,
    turned_ellipsoid,
)
from data_prep.phantoms.patient import Enhancement, Patient, Phase
from data_prep.phantoms.torso import (
    DIAPHRAGM_HALF_MM,
    INFERIOR_CAVA,
    INFERIOR_CAVA_RADII,
    PORTAL_TRUNK,
    PORTAL_TRUNK_RADII,
    Torso,
    heart_distance,
)

LIVER_BOX = Box((-160.0, 100.0), (-130.0, 110.0), (-190.0, 15.0))
SPLEEN_BOX = Box((40.0, 160.0), (-40.0, 110.0), (-125.0, 5.0))
_CORTEX_MM = 8.0
"""Thickness of the kidney's bright rim."""


@dataclass(frozen=True)
class Kidney:
    """One kidney: its outline, the fat in its middle and the pyramids between."""

    outline: Solid
    sinus: Field


@dataclass(frozen=True)
class Organs:
    """Shapes of the organs that can hold a lesion, and of the spleen beside them."""

    liver: Solid
    spleen: Solid
    kidneys: tuple[Kidney, ...]


def build_organs(patient: Patient, torso: Torso, frame: Frame) -> Organs:
    """Fit liver, spleen and kidneys into the torso."""
    dice = patient.seed_dice.child("organs")
    liver = _liver(torso, frame, dice.child("liver"))
    kidneys = [_kidney(torso, frame, dice.child(f"kidney{side}"), side) for side in (-1.0, 1.0)]
    kidneys = [kidney for kidney in kidneys if not kidney.outline.mesh.empty]
    return Organs(
        liver=_apart(liver, [kidney.outline for kidney in kidneys]),
        spleen=_spleen(torso, frame, dice.child("spleen")),
        kidneys=tuple(kidneys),
    )


def _apart(liver: Solid, neighbours: Sequence[Solid]) -> Solid:
    """Return the liver with hollows where kidneys and great veins press on it."""
    if liver.mesh.empty:
        return liver
    hollow = tube(liver.mesh, INFERIOR_CAVA, INFERIOR_CAVA_RADII)
    hollow = np.minimum(hollow, tube(liver.mesh, PORTAL_TRUNK, PORTAL_TRUNK_RADII))
    for neighbour in neighbours:
        hollow = np.minimum(hollow, resample(neighbour, liver.mesh))
    return Solid(liver.mesh, smooth_max(liver.distance, -1.0 - hollow, 2.0))


def _room(torso: Torso, mesh: Mesh, *, gap_mm: float) -> Field:
    """Distance to the abdominal space: inside the wall and under the diaphragm, less a gap."""
    room = smooth_max(torso.cavity + gap_mm, gap_mm + DIAPHRAGM_HALF_MM - torso.diaphragm, 8.0)
    return resample(Solid(torso.mesh, room), mesh)


def _liver(torso: Torso, frame: Frame, dice: Dice) -> Solid:
    mesh = frame.mesh(4, LIVER_BOX)
    if mesh.empty:
        return Solid(mesh, np.empty(mesh.shape, np.float32))
    x, y, z = mesh.x, mesh.y, mesh.z
    tip = dice.uniform(-30.0, 12.0)
    left = dice.uniform(45.0, 88.0)
    bend = x * x * (1.0 / 900.0)
    lower = (-(z + 72.0 - 0.2 * tip) + (x - 55.0) * 0.62 + bend - 3.0 + y * 0.12) * 0.80
    lower = np.maximum(lower, (-150.0 + tip) - z)
    rear = 0.60 * x + 0.80 * y - dice.uniform(2.0, 12.0) + 0.05 * (z + 60.0)
    rear = smooth_max(rear, np.broadcast_to(y - 62.0, rear.shape), 20.0)
    out = smooth_max(_room(torso, mesh, gap_mm=0.5), rear, 22.0)
    out = smooth_max(out, lower, 22.0)
    out = smooth_max(out, np.broadcast_to(x - left, mesh.shape), 20.0)
    cleft = np.sqrt((x - 12.0 + 0.2 * y) ** 2 + np.maximum(-40.0 - z, 0) ** 2 * 0.01)
    groove = 2.0 - cleft + np.maximum(-y - 62.0, 0.0) * 0.12 + np.maximum(z + 45.0, 0.0) * -0.1
    out = smooth_max(out, groove, 4.0)
    out = out + Noise(dice.child("form"), 38.0).on(mesh) * 4.5
    return Solid(mesh, out + Noise(dice.child("edge"), 14.0).on(mesh) * 0.8)


def _spleen(torso: Torso, frame: Frame, dice: Dice) -> Solid:
    mesh = frame.mesh(4, SPLEEN_BOX)
    if mesh.empty:
        return Solid(mesh, np.empty(mesh.shape, np.float32))
    size = dice.uniform(0.9, 1.15)
    outer = ellipsoid(mesh, (100.0, 40.0, -58.0), (54.0 * size, 66.0 * size, 64.0 * size))
    hollow = ellipsoid(mesh, (44.0, 2.0, -56.0), (42.0, 52.0, 84.0))
    out = smooth_max(outer, -hollow, 12.0)
    out = smooth_max(out, _room(torso, mesh, gap_mm=1.0), 8.0)
    return Solid(mesh, out + Noise(dice.child("form"), 25.0).on(mesh) * 3.0)


def _kidney(torso: Torso, frame: Frame, dice: Dice, side: float) -> Kidney:
    centre: Vector = dice.near((60.0 * side, 40.0, -122.0 if side < 0 else -106.0), spread_mm=4.0)
    reach = 62.0
    box = Box(
        (centre[0] - reach, centre[0] + reach),
        (centre[1] - reach, centre[1] + reach),
        (centre[2] - 85.0, centre[2] + 85.0),
    )
    mesh = frame.mesh(2, box)
    if mesh.empty:
        empty = np.empty(mesh.shape, np.float32)
        return Kidney(Solid(mesh, empty), empty)
    size = dice.uniform(0.98, 1.14)
    lateral: Vector = (0.80 * side, 0.57, -0.19)
    forward: Vector = (0.58 * side, -0.815, 0.0)
    upward: Vector = (-0.155 * side, -0.11, 0.98)
    axes = (lateral, forward, upward)
    out = turned_ellipsoid(mesh, centre, (28.0 * size, 24.0 * size, 54.0 * size), axes)
    hilum = (
        centre[0] - lateral[0] * 21.0, centre[1] - lateral[1] * 21.0, centre[2] - lateral[2] * 21.0,
    )  # fmt: skip
    sinus = turned_ellipsoid(mesh, hilum, (17.0, 9.0, 24.0), axes)
    out = smooth_max(out, -sinus - 4.0, 6.0)
    lobes = Noise(dice.child("lobes"), 13.0).on(mesh)
    out = out + Noise(dice.child("form"), 24.0).on(mesh) * 2.0 + lobes * 0.8
    out = smooth_max(out, _room(torso, mesh, gap_mm=5.0), 8.0)
    return Kidney(Solid(mesh, out), sinus + lobes * 5.0)


def paint_solid_organs(canvas: Canvas, organs: Organs, scan: Enhancement, dice: Dice) -> None:
    """Paint liver, spleen and kidneys with their inner structure."""
    liver, spleen = organs.liver, organs.spleen
    if not liver.mesh.empty:
        grain = Noise(dice.child("liver"), 9.0).on(liver.mesh)
        canvas.paint(liver, scan.liver + 3.0 * grain, Tissue.LIVER)
    if not spleen.mesh.empty:
        mottle = 38.0 if scan.phase is Phase.ARTERIAL else 3.0
        waves = Noise(dice.child("spleen"), 10.0).on(spleen.mesh)
        canvas.paint(spleen, scan.spleen + mottle * waves, Tissue.SPLEEN)
    for number, kidney in enumerate(organs.kidneys):
        _paint_kidney(canvas, kidney, scan, dice.child(f"kidney{number}"))


def _paint_kidney(canvas: Canvas, kidney: Kidney, scan: Enhancement, dice: Dice) -> None:
    mesh, outline = kidney.outline.mesh, kidney.outline.distance
    canvas.paint(kidney.outline, scan.cortex, Tissue.KIDNEY)
    columns = Noise(dice, 10.0).on(mesh) * 3.5
    pyramids = np.maximum(outline + _CORTEX_MM, columns - 1.0)
    canvas.paint(Solid(mesh, pyramids), scan.medulla, Tissue.KIDNEY, blur_mm=3.0)
    sinus = np.maximum(kidney.sinus, outline + 3.0 - 6.0)
    canvas.paint(Solid(mesh, sinus), scan.fat + 15.0, Tissue.KIDNEY, blur_mm=2.5)


def paint_heart(canvas: Canvas, torso: Torso, scan: Enhancement, dice: Dice) -> None:
    """Paint the heart: its fat, muscle and four chambers of blood."""
    mesh = canvas.frame.mesh(4, Box((-70.0, 110.0), (-115.0, 40.0), (-40.0, 105.0)))
    if mesh.empty:
        return
    outline = heart_distance(mesh) + Noise(dice.child("heart"), 22.0).on(mesh) * 2.5
    outline = smooth_max(outline, _above_diaphragm(torso, mesh), 8.0)
    canvas.paint(Solid(mesh, outline), scan.myocardium, Tissue.HEART)
    left, right = scan.artery, (scan.vein + scan.artery) * 0.5
    chambers = (
        ((45.0, -34.0, 20.0), (30.0, 17.0, 18.0), left),
        ((16.0, -62.0, 28.0), (40.0, 13.0, 26.0), right),
        ((10.0, -8.0, 52.0), (30.0, 16.0, 20.0), left),
        ((-24.0, -32.0, 42.0), (19.0, 22.0, 28.0), right),
    )
    for centre, radii, blood in chambers:
        axes = ((0.80, -0.48, -0.36), (0.51, 0.86, 0.0), (0.31, -0.18, 0.93))
        chamber = turned_ellipsoid(mesh, centre, radii, axes)
        chamber = smooth_max(chamber + Noise(dice, 16.0).on(mesh) * 2.5, outline + 4.0, 4.0)
        canvas.paint(Solid(mesh, chamber), blood, Tissue.HEART, blur_mm=3.0)


def _above_diaphragm(torso: Torso, mesh: Mesh) -> Field:
    return resample(Solid(torso.mesh, torso.diaphragm), mesh) + 4.0


def paint_small_organs(canvas: Canvas, patient: Patient, scan: Enhancement) -> None:
    """Paint gallbladder, pancreas and adrenal glands."""
    frame, dice = canvas.frame, patient.seed_dice.child("small")
    mesh = frame.mesh(2, Box((-75.0, -10.0), (-100.0, -5.0), (-150.0, -75.0)))
    if not mesh.empty and dice.chance(0.85):
        centre = dice.near((-44.0, -46.0, -112.0), spread_mm=5.0)
        pear = ellipsoid(mesh, centre, (15.0, 20.0, 24.0))
        canvas.paint(solid_of(mesh, pear), scan.bowel_wall, Tissue.OTHER_ORGAN)
        canvas.paint(solid_of(mesh, pear + 1.5), dice.uniform(2.0, 16.0), Tissue.OTHER_ORGAN)
    mesh = frame.mesh(2, Box((-60.0, 100.0), (-65.0, 45.0), (-150.0, -55.0)))
    if not mesh.empty:
        shift = patient.organ_shift
        line = [(-30, -16, -128), (-26, -20, -110), (-4, -30, -101), (24, -24, -94),
                (54, 0, -84), (76, 16, -74)]  # fmt: skip
        points = [(a + shift[0], b + 0.5 * shift[1], c + shift[2]) for a, b, c in line]
        pancreas = tube(mesh, points, (14.0, 13.0, 9.5, 9.0, 8.5, 6.0))
        pancreas = pancreas + Noise(dice.child("lobules"), 7.0).on(mesh) * 3.5
        canvas.paint(Solid(mesh, pancreas), scan.pancreas, Tissue.OTHER_ORGAN)
    for side, low in ((-1.0, -78.0), (1.0, -72.0)):
        apex = (28.0 * side, 24.0, low + 18.0)
        for limb in ((20.0 * side, 38.0, low), (38.0 * side, 40.0, low)):
            sx, sy, sz = frame.scale
            start = (apex[0] * sx, apex[1] * sy, apex[2] * sz)
            end = (limb[0] * sx, limb[1] * sy, limb[2] * sz)
            canvas.paint_rod(start, end, (2.6, 2.2), scan.pancreas - 10.0)
