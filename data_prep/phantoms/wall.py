"""Painting the body wall: skin, fat, layered muscle, the back muscles and the psoas."""

from __future__ import annotations

import numpy as np

from data_prep.phantoms.canvas import Canvas, Tissue, solid_of
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.fields import Box, Noise, Solid, profile, smooth_min, tube
from data_prep.phantoms.patient import Enhancement
from data_prep.phantoms.torso import DIAPHRAGM_HALF_MM, SPINE_CENTRE_Y, Torso

SKIN_HU = 25.0
_SKIN_MM = 1.8
_SEPTUM_HU = 62.0
"""How much the strands in fat, and the fat between muscle fibres, stand out."""


def paint_wall(canvas: Canvas, torso: Torso, scan: Enhancement, dice: Dice) -> None:
    """Paint everything from the skin to the fat that fills the body's cavity."""
    mesh = torso.mesh
    canvas.paint(Solid(mesh, torso.body), SKIN_HU, Tissue.SKIN)
    strands = np.maximum(Noise(dice.child("strands"), 10.0).on(mesh) - 0.35, 0.0)
    fat = scan.fat + 4.0 * Noise(dice.child("fat"), 25.0).on(mesh) + _SEPTUM_HU * strands
    canvas.paint(Solid(mesh, torso.body + _SKIN_MM), fat, Tissue.FAT)
    fibres = np.maximum(Noise(dice.child("fibres"), 6.0).on(mesh) - 0.25, 0.0)
    meat = scan.muscle + 3.0 - 0.6 * _SEPTUM_HU * fibres
    canvas.paint(Solid(mesh, torso.muscle), meat, Tissue.MUSCLE)
    layers = Noise(dice.child("layers"), 30.0).on(mesh)
    gaps = Noise(dice.child("gaps"), 18.0).on(mesh)
    for depth_mm, spread in ((5.5, 1.5), (11.0, -2.0)):
        start = torso.muscle + depth_mm + spread * layers
        canvas.paint(Solid(mesh, start), scan.fat + 25.0, Tissue.MUSCLE)
        canvas.paint(Solid(mesh, start + 0.7 + 1.1 * gaps), meat, Tissue.MUSCLE)
    _paint_armpits(canvas, torso, scan, dice)
    _paint_back_muscles(canvas, scan, dice)
    inside = scan.fat + 12.0 * np.maximum(Noise(dice.child("omentum"), 9.0).on(mesh), 0.0)
    canvas.paint(Solid(mesh, torso.cavity), inside, Tissue.FAT)
    _paint_psoas(canvas, scan)


def _paint_armpits(canvas: Canvas, torso: Torso, scan: Enhancement, dice: Dice) -> None:
    """Paint the fat between chest wall and shoulder muscles, with what runs through it."""
    mesh = torso.mesh
    form = Noise(dice.child("armpit"), 26.0).on(mesh)
    low = 118.0 - mesh.z
    space = np.maximum(np.maximum(15.0 - torso.cavity, torso.muscle + 15.0 + 6.0 * form), low)
    space = np.maximum(space, mesh.y - 46.0 + 6.0 * form)
    canvas.paint(Solid(mesh, space), scan.fat, Tissue.FAT)
    bundles = np.maximum(space + 4.0, 0.30 - np.abs(form))
    canvas.paint(Solid(mesh, bundles * 12.0), scan.muscle, Tissue.MUSCLE, blur_mm=4.0)


def _paint_back_muscles(canvas: Canvas, scan: Enhancement, dice: Dice) -> None:
    """Paint the erector columns beside the spinous processes, in a sheath of fat."""
    mesh = canvas.frame.mesh(2, Box((-75.0, 75.0), (30.0, 120.0), (-1e4, 1e4)))
    if mesh.empty:
        return
    spine_y = profile(mesh.z, SPINE_CENTRE_Y)
    width = profile(mesh.z, ((-220, 25.0), (-60, 24.0), (60, 19.0), (230, 18.0)))
    depth = profile(mesh.z, ((-220, 19.0), (-60, 17.0), (60, 12.5), (230, 11.0)))
    side = np.abs(mesh.x)
    fibres = np.maximum(Noise(dice.child("erector"), 5.0).on(mesh) - 0.2, 0.0)
    centre_y = spine_y + 31.0 + depth
    k_x, k_y = (side - width - 5.0) / width, (mesh.y - centre_y) / depth
    outer = (np.sqrt(k_x * k_x + k_y * k_y) - 1.0) * depth
    canvas.paint(solid_of(mesh, outer - 1.2), scan.fat + 20.0, Tissue.MUSCLE)
    meat = scan.muscle + 4.0 - 2.0 * _SEPTUM_HU * fibres
    canvas.paint(solid_of(mesh, outer), meat, Tissue.MUSCLE)
    cleft = np.abs(side - width - 1.0 + 0.25 * (mesh.y - centre_y)) - 0.5
    canvas.paint(solid_of(mesh, np.maximum(cleft, outer + 2.0)), scan.fat + 40.0, opacity=0.6)


def _paint_psoas(canvas: Canvas, scan: Enhancement) -> None:
    """Paint psoas and quadratus lumborum beside the lumbar spine."""
    mesh = canvas.frame.mesh(2, Box((-110.0, 110.0), (-20.0, 100.0), (-1e4, -70.0)))
    if mesh.empty:
        return
    spine_y = profile(mesh.z, SPINE_CENTRE_Y)
    size = profile(mesh.z, ((-230, 23.0), (-170, 19.0), (-110, 9.0), (-85, 1.0)))
    side = np.abs(mesh.x) - 22.0 - size * 0.75
    y = mesh.y - spine_y - 4.0
    psoas = np.sqrt(side * side * 1.1 + y * y) - size
    lateral = np.abs(mesh.x) - 62.0
    rear = mesh.y - spine_y - 32.0 + 0.2 * lateral
    quadratus = np.sqrt(lateral * lateral * 0.16 + rear * rear) - 7.0
    canvas.paint(solid_of(mesh, smooth_min(psoas, quadratus, 3.0)), scan.muscle, Tissue.MUSCLE)


def paint_diaphragm(canvas: Canvas, torso: Torso, scan: Enhancement) -> None:
    """Paint the sheet of muscle between lungs and abdomen, and its pillars beside the aorta."""
    for height, value, tissue in (
        (-DIAPHRAGM_HALF_MM, scan.muscle, Tissue.MUSCLE),
        (DIAPHRAGM_HALF_MM, scan.fat, Tissue.FAT),
    ):
        above = np.maximum(torso.diaphragm + height, torso.cavity)
        canvas.paint(Solid(torso.mesh, above), value, tissue)
    mesh = canvas.frame.mesh(2, Box((-40.0, 45.0), (-15.0, 60.0), (-130.0, -5.0)))
    if mesh.empty:
        return
    thin = profile(mesh.z, ((-130, 1.0), (-100, 3.5), (-30, 4.5)))
    for points in (
        ((20, 14, -10), (19, 10, -50), (16, 12, -90), (13, 18, -128)),
        ((-6, 10, -10), (-8, 4, -50), (-10, 8, -90), (-10, 14, -128)),
    ):
        pillar = tube(mesh, points, (1.5,) * 4) - thin
        canvas.paint(Solid(mesh, pillar), scan.muscle, Tissue.MUSCLE)
