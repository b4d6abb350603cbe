"""What the scanner adds: the table, noise that depends on dose and depth, the round field of view.

The noise is white noise after a small blur minus a wider blur: mid frequencies dominate, as after
filtered back projection, and it is strongest in the middle of the body where fewest photons pass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.canvas import Canvas, Tissue, solid_of, upsampled
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.fields import Field, Noise, smooth_max
from data_prep.phantoms.patient import Protocol
from data_prep.phantoms.torso import Torso

AIR_HU = -1000.0
OUTSIDE_HU = -1024
"""Value outside the reconstructed circle and the lowest of the file."""

HIGHEST_HU = 3071

_TABLE_SHELL_HU = -60.0
_TABLE_FOAM_HU = -880.0
_MATTRESS_HU = -940.0


def paint_table(canvas: Canvas, torso: Torso, dice: Dice) -> None:
    """Paint a mattress and a curved table top under the back."""
    mesh = canvas.frame.mesh(4)
    hollow = dice.uniform(0.0, 0.0006)
    top = torso.table_top_y + 4.0 - hollow * mesh.x * mesh.x
    half_width = dice.uniform(190.0, 225.0)
    side = np.abs(mesh.x) - half_width
    depth = mesh.y - top - 14.0
    mattress = np.maximum(np.abs(mesh.y - top - 5.0) - 6.5, side + 20.0)
    canvas.paint(solid_of(mesh, mattress), _MATTRESS_HU, Tissue.TABLE)
    bed = np.maximum(np.abs(depth - 16.0) - 18.0, side)
    bed = smooth_max(bed, (side + 60.0) * 0.35 + depth * 0.94 - 26.0, 6.0)
    canvas.paint(solid_of(mesh, bed), _TABLE_SHELL_HU, Tissue.TABLE)
    canvas.paint(solid_of(mesh, bed + 2.2), _TABLE_FOAM_HU, Tissue.TABLE)


def expose(canvas: Canvas, torso: Torso, protocol: Protocol, dice: Dice) -> npt.NDArray[np.int16]:
    """Add noise, cut the field of view to a circle and round to whole Hounsfield units."""
    frame = canvas.frame
    out = np.empty(canvas.hu.shape, np.int16)
    depth = np.clip(0.35 - torso.body * (1.0 / 75.0), 0.3, 1.25) * protocol.noise_hu
    shoulder = Noise(dice.child("dose"), 60.0)
    by_slice = 1.0 + 0.12 * shoulder.at(torso.mesh.z, np.zeros(1), np.zeros(1))
    depth = depth * by_slice
    outside = _outside_circle(frame.size)
    for number in range(frame.slices):
        grain = _grain(dice.child(f"slice{number}"), frame.size, protocol.sharpness)
        grain *= upsampled(depth[number : number + 1], 4)[0]
        grain += canvas.hu[number]
        np.rint(grain, out=grain)
        np.clip(grain, OUTSIDE_HU, HIGHEST_HU, out=grain)
        grain[outside] = OUTSIDE_HU
        out[number] = grain
    return out


def _outside_circle(size: int) -> npt.NDArray[np.bool_]:
    offset = np.arange(size) * 2 - (size - 1)
    square = offset * offset
    outside: npt.NDArray[np.bool_] = (square[:, None] + square[None]) > size * size
    return outside


def _grain(dice: Dice, size: int, sharpness: float) -> Field:
    """Return one slice of band-limited noise of about unit deviation."""
    wide = size + 12
    white = dice.normals(wide * wide).reshape(wide, wide)
    fine = _blurred(white, 1)
    soft = _blurred(fine, 1)
    coarse = _blurred(_blurred(soft, 2), 2)
    fine, soft, coarse = (_centre(part, size) for part in (fine, soft, coarse))
    mixed = fine * (0.9 * sharpness) + soft * (3.6 * (1.0 - sharpness)) - coarse * 0.9
    mixed *= 1.0 / (0.35 * sharpness + 0.72 * (1.0 - sharpness))
    return mixed


def _centre(values: Field, size: int) -> Field:
    cut = (values.shape[0] - size) // 2
    return values[cut : cut + size, cut : cut + size]


def _blurred(values: Field, reach: int) -> Field:
    """Blur by (1, 2, 1) / 4 with gaps of ``reach`` along both axes; shrinks by 2 x reach."""
    low, high = slice(None, -2 * reach), slice(2 * reach, None)
    middle = slice(reach, -reach)
    rows = values[low] + values[high]
    rows += 2.0 * values[middle]
    out: Field = rows[:, low] + rows[:, high]
    out += 2.0 * rows[:, middle]
    out *= 1.0 / 16.0
    return out
