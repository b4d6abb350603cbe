"""Painting planned lesions: their Hounsfield units, blurred border and label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.canvas import Canvas, mean_of_subslices
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.fields import Field, Noise
from data_prep.phantoms.lesions import (
    HOME_TISSUES,
    LABEL_SHARE,
    LesionKind,
    PaintedLesion,
    PlannedLesion,
    patch_of,
)
from data_prep.phantoms.patient import Enhancement, Phase

_BORDER_MM: dict[LesionKind, tuple[float, float]] = {
    LesionKind.LIVER: (1.5, 4.5),
    LesionKind.KIDNEY: (1.2, 3.0),
    LesionKind.LUNG: (0.8, 2.0),
    LesionKind.SOFT_TISSUE: (1.5, 4.0),
}
"""Width over which a lesion's border fades."""

_SHARE_OUTSIDE_HOME = 0.4
"""Most share of a voxel that a lesion takes where its home fills less than half of it."""


def paint_lesion(
    canvas: Canvas, labels: npt.NDArray[np.uint8], lesion: PlannedLesion, scan: Enhancement,
    dice: Dice,
) -> PaintedLesion | None:  # fmt: skip
    """Paint a lesion and label its voxels; None, changing nothing, when it fills half of none.

    Args:
        canvas: The painted body.
        labels: The scan's labels; voxels of this lesion get its kind's value.
        lesion: The lesion as planned.
        scan: The tissues' Hounsfield units.
        dice: The lesion's stream of looks.
    """
    frame, kind = canvas.frame, lesion.kind
    patch = patch_of(lesion, frame)
    where = (patch.slices, patch.rows, patch.columns)
    width = max(dice.uniform(*_BORDER_MM[kind]), canvas.blur_mm)
    width = min(width, max(0.8 * lesion.radius_mm, canvas.blur_mm))
    fine = 0.5 + (lesion.level_mm - patch.radius) * (1.0 / width)
    fine = np.minimum(fine, 0.5 + patch.depth * (1.0 / canvas.blur_mm))
    share = mean_of_subslices(np.clip(fine, 0.0, 1.0), patch.parts)
    home = np.isin(canvas.tissue[where], [int(t) for t in HOME_TISSUES[kind]])
    share = np.where(home, share, np.minimum(share, np.float32(_SHARE_OUTSIDE_HOME)))
    inside = (share >= LABEL_SHARE) & (labels[where] == 0)
    count = int(inside.sum())
    if count == 0:
        return None
    radius = mean_of_subslices(patch.radius, patch.parts)
    value = _looks(dice, lesion, scan, radius, _noise_on(dice, lesion, canvas, patch_where=where))
    view = canvas.hu[where]
    before = int(np.rint(view[inside]).astype(np.int64).sum()) / count
    view += (value - view) * share
    after = int(np.rint(view[inside]).astype(np.int64).sum()) / count
    labels[where][inside] = kind.value_in_labels
    voxel_ml = frame.pixel_mm * frame.pixel_mm * frame.slice_mm / 1000.0
    return PaintedLesion(
        kind=kind,
        drawn_ml=round(lesion.volume_ml, 4),
        labelled_ml=round(count * voxel_ml, 4),
        centre_mm=lesion.form.centre,
        contrast_hu=round(after - before, 1),
    )


def _noise_on(
    dice: Dice, lesion: PlannedLesion, canvas: Canvas, *, patch_where: tuple[slice, slice, slice]
) -> Field:
    grain = Noise(dice.child("texture"), max(lesion.radius_mm / 2.2, 2.5))
    slices, rows, columns = patch_where
    frame = canvas.frame
    return grain.at(
        frame.z_mm(np.arange(slices.start, slices.stop)),
        frame.y_mm(np.arange(rows.start, rows.stop)),
        frame.x_mm(np.arange(columns.start, columns.stop)),
    )


def _looks(
    dice: Dice, lesion: PlannedLesion, scan: Enhancement, radius: Field, texture: Field
) -> Field:
    """Return the lesion's Hounsfield units at its voxels, given the warped radius there."""
    kind, enhanced = lesion.kind, scan.phase is not Phase.PLAIN
    base, uneven, core, rim = _palette(dice, kind, scan)
    value = base + uneven * texture
    inner = radius * (1.0 / lesion.level_mm)
    if core != 0.0 and lesion.radius_mm > 7.0:
        value = value + core * np.clip((0.72 - inner + 0.22 * texture) * 4.0, 0.0, 1.0)
    if enhanced and rim != 0.0 and lesion.radius_mm > 4.0:
        value = value + rim * np.clip(1.0 - np.abs(inner - 0.93) * 7.0, 0.0, 1.0)
    return value


def _palette(dice: Dice, kind: LesionKind, scan: Enhancement) -> tuple[float, float, float, float]:
    """Draw (mean, unevenness, dead core's and rim's difference), all in Hounsfield units."""
    plain, arterial = scan.phase is Phase.PLAIN, scan.phase is Phase.ARTERIAL
    if kind is LesionKind.LIVER:
        if arterial and dice.chance(0.35):
            return (scan.liver + dice.uniform(25.0, 60.0), 8.0, dice.uniform(-30.0, 0.0), 0.0)
        darker = dice.uniform(12.0, 26.0) if plain else dice.uniform(22.0, 62.0)
        core = -dice.uniform(5.0, 25.0) if dice.chance(0.4) else 0.0
        rim = dice.uniform(20.0, 50.0) if dice.chance(0.45) else 0.0
        return (scan.liver - darker, 6.0, core, rim)
    if kind is LesionKind.KIDNEY:
        mean = scan.cortex + dice.uniform(2.0, 16.0) if plain else dice.uniform(60.0, 125.0)
        core = -dice.uniform(20.0, 50.0) if dice.chance(0.4) and not plain else 0.0
        return (mean, 6.0 if plain else 16.0, core, 0.0)
    if kind is LesionKind.LUNG:
        taken_up = 0.0 if plain else dice.uniform(0.0, 25.0)
        return (dice.uniform(0.0, 35.0) + taken_up, 6.0, 0.0, 0.0)
    shift = dice.uniform(8.0, 30.0) if dice.chance(0.4) else -dice.uniform(8.0, 28.0)
    if plain:
        shift = -abs(shift) * 0.8
    core = -dice.uniform(10.0, 30.0) if dice.chance(0.5) else 0.0
    return (scan.muscle + shift, 9.0, core, 0.0)
