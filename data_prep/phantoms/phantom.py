"""One synthetic scan: a patient, a scanner setting and lesions, put together in painting order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.bowel import paint_bowel
from data_prep.phantoms.canvas import Canvas
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.fields import FAR_MM, Box, Frame, Mesh, Solid, resample, smooth_min
from data_prep.phantoms.lesion_looks import paint_lesion
from data_prep.phantoms.lesions import (
    Form,
    Home,
    LesionKind,
    PaintedLesion,
    PlannedLesion,
    plan_lesion,
)
from data_prep.phantoms.organs import (
    Kidney,
    Organs,
    build_organs,
    paint_heart,
    paint_small_organs,
    paint_solid_organs,
)
from data_prep.phantoms.patient import (
    Coverage,
    Enhancement,
    Patient,
    Protocol,
    draw_enhancement,
    draw_patient,
    draw_protocol,
)
from data_prep.phantoms.scanner import AIR_HU, expose, paint_table
from data_prep.phantoms.skeleton import build_bones, paint_bones, paint_rib_cartilage
from data_prep.phantoms.torso import Torso, build_torso
from data_prep.phantoms.vessels import (
    paint_airways,
    paint_great_vessels,
    paint_liver_vessels,
    paint_lung,
)
from data_prep.phantoms.wall import paint_diaphragm, paint_wall

_FOCUS_Z_MM = {
    LesionKind.LIVER: -65.0,
    LesionKind.KIDNEY: -114.0,
    LesionKind.LUNG: 80.0,
    LesionKind.SOFT_TISSUE: None,
}
"""Reference z of the middle of each kind's organ."""

_FAT_OVER_LESION_MM = 4.0
"""Skin and fat between a bulging soft tissue lesion and the air."""


@dataclass(frozen=True)
class Phantom:
    """A finished scan on its canonical grid (slices to the head, rows back, columns left)."""

    hu: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    """Every lesion, whoever is to know of it: ``LesionKind.value_in_labels``, 0 elsewhere."""
    tissue: npt.NDArray[np.uint8]
    """:class:`Tissue` under the lesions."""
    patient: Patient
    enhancement: Enhancement
    protocol: Protocol
    lesions: tuple[PaintedLesion, ...]


def make_phantom(
    patient_dice: Dice, scan_dice: Dice, *, coverage: Coverage,
    lesions: Mapping[LesionKind, int], pixels: int, focus: LesionKind | None = None,
) -> Phantom:  # fmt: skip
    """Make one scan.

    Args:
        patient_dice: Draws the body; scans of one patient share it.
        scan_dice: Draws contrast, scanner settings, lesions and noise.
        coverage: Stretch of the body.
        lesions: How many of each kind; a kind whose organ is not in the scan gets none.
        pixels: Rows and columns of a slice, a multiple of 4.
        focus: The kind whose organ the scan is centred on; None for anywhere in the coverage.
    """
    patient = draw_patient(patient_dice)
    scan = draw_enhancement(scan_dice.child("enhancement"))
    protocol = draw_protocol(
        scan_dice.child("protocol"),
        patient,
        coverage,
        pixels=pixels,
        focus_z_mm=None if focus is None else _FOCUS_Z_MM[focus],
    )
    frame = protocol.frame
    anatomy = _Anatomy(build_torso(patient, frame), frame, patient)
    planned = anatomy.grow(scan_dice.child("lesions"), lesions)
    canvas = Canvas(frame, background_hu=AIR_HU, blur_mm=protocol.blur_mm)
    anatomy.paint(canvas, scan, scan_dice)
    labels = np.zeros(canvas.tissue.shape, np.uint8)
    painted = [
        paint_lesion(canvas, labels, lesion, scan, scan_dice.child(f"looks{number}"))
        for number, lesion in enumerate(planned)
    ]
    return Phantom(
        hu=expose(canvas, anatomy.torso, protocol, scan_dice.child("noise")),
        labels=labels,
        tissue=canvas.tissue,
        patient=patient,
        enhancement=scan,
        protocol=protocol,
        lesions=tuple(lesion for lesion in painted if lesion is not None),
    )


class _Anatomy:
    """The shapes of one scan, which lesions may swell before they are painted."""

    def __init__(self, torso: Torso, frame: Frame, patient: Patient) -> None:
        self.torso = torso
        self.frame = frame
        self.patient = patient
        self.organs: Organs = build_organs(patient, torso, frame)
        self.bones = build_bones(torso, frame)

    def grow(self, dice: Dice, counts: Mapping[LesionKind, int]) -> list[PlannedLesion]:
        """Find places for the lesions, largest organs last so that each finds room."""
        planned: list[PlannedLesion] = []
        for kind in LesionKind:
            for number in range(counts.get(kind, 0)):
                own = dice.child(f"{kind.value}{number}")
                for home in self._homes(kind, own):
                    lesion = plan_lesion(own, home, self.frame, planned, self._swell)
                    if lesion is not None:
                        self._keep_swelling(home, lesion)
                        planned.append(lesion)
                        break
        return planned

    def _homes(self, kind: LesionKind, dice: Dice) -> list[Home]:
        """Return where a lesion may grow, in the order to try."""
        if kind is LesionKind.LIVER:
            return [Home(kind, self.organs.liver, 1.5)]
        if kind is LesionKind.LUNG:
            return [Home(kind, Solid(self.torso.mesh, self.torso.lungs), 1.0)]
        if kind is LesionKind.SOFT_TISSUE:
            return [Home(kind, self._wall(), 1.0)]
        kidneys = list(self.organs.kidneys)
        if dice.chance(0.5):
            kidneys.reverse()
        return [Home(kind, kidney.outline, 1.5) for kidney in kidneys]

    def _wall(self) -> Solid:
        """Distance to muscle and fat around the cavity, clear of bone, table and circle's edge."""
        torso, mesh, frame = self.torso, self.torso.mesh, self.frame
        distance = np.maximum(torso.body + 4.0, 3.0 - torso.cavity)
        for bone in self.bones:
            distance = np.maximum(distance, 2.5 - resample(bone, mesh))
        distance = np.maximum(distance, mesh.y - (torso.table_top_y - 5.0))
        return Solid(mesh, np.maximum(distance, self._circle(mesh, frame)))

    @staticmethod
    def _circle(mesh: Mesh, frame: Frame) -> npt.NDArray[np.float32]:
        x = mesh.x * frame.scale[0] - frame.centre_xy_mm[0]
        y = mesh.y * frame.scale[1] - frame.centre_xy_mm[1]
        edge = 0.5 * frame.size * frame.pixel_mm - 4.0
        return np.asarray(np.sqrt(x * x + y * y) - edge, np.float32)

    def _swell(self, home: Home, form: Form, level_mm: float) -> Home:
        """Return the home with a bulge around a lesion's form."""
        mesh, distance = home.solid.mesh, home.solid.distance
        x, y, z = (c / s for c, s in zip(form.centre, self.frame.scale, strict=True))
        reach = 2.0 * level_mm + 12.0
        box = Box((x - reach, x + reach), (y - reach, y + reach), (z - reach, z + reach))
        near = self.frame.mesh(mesh.step, box)
        part = _overlap(mesh, near)
        small = Mesh(
            mesh.step, *_spans(mesh, part),
            mesh.z[part[0]], mesh.y[:, part[1]], mesh.x[:, :, part[2]],
        )  # fmt: skip
        hull = form.on(small, self.frame) - level_mm
        bound = 2.0 - resample(Solid(self.torso.mesh, self.torso.cavity), small)
        if home.kind is LesionKind.KIDNEY:
            bound = 6.0 - bound
        else:
            bound = np.maximum(bound, small.y - (self.torso.table_top_y - 4.0))
            bound = np.maximum(bound, self._circle(small, self.frame))
            for bone in self.bones:
                bound = np.maximum(bound, 2.5 - resample(bone, small))
        bulge = np.full_like(distance, FAR_MM)
        bulge[part] = np.maximum(hull, bound)
        return replace(home, solid=Solid(mesh, smooth_min(distance, bulge, 5.0)), bulge=bulge)

    def _keep_swelling(self, before: Home, lesion: PlannedLesion) -> None:
        """Make the bulge of a lesion part of the body."""
        after = lesion.home
        if lesion.kind is LesionKind.KIDNEY:
            kidneys = tuple(
                Kidney(after.solid, k.sinus) if k.outline is before.solid else k
                for k in self.organs.kidneys
            )
            self.organs = replace(self.organs, kidneys=kidneys)
        elif after.bulge is not None:
            skin = smooth_min(self.torso.body, after.bulge - _FAT_OVER_LESION_MM, 8.0)
            self.torso = replace(self.torso, body=skin)

    def paint(self, canvas: Canvas, scan: Enhancement, dice: Dice) -> None:
        """Paint the patient and the table, from the outside in."""
        torso, organs, patient = self.torso, self.organs, self.patient
        details = patient.seed_dice
        paint_table(canvas, torso, dice.child("table"))
        paint_wall(canvas, torso, scan, details.child("wall"))
        paint_diaphragm(canvas, torso, scan)
        paint_lung(canvas, torso, details.child("lung"))
        paint_heart(canvas, torso, scan, details.child("heart"))
        paint_bowel(canvas, patient, torso, scan)
        paint_small_organs(canvas, patient, scan)
        paint_solid_organs(canvas, organs, scan, details.child("grain"))
        paint_great_vessels(canvas, scan)
        paint_liver_vessels(canvas, organs, scan, details.child("liver vessels"))
        paint_airways(canvas, scan)
        paint_bones(canvas, self.bones, details.child("bones"))
        if self.bones:
            paint_rib_cartilage(canvas, self.bones[0])


def _spans(mesh: Mesh, part: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
    """Return the voxels that a part of a mesh covers."""
    low, step = (mesh.slices.start, mesh.rows.start, mesh.columns.start), mesh.step
    return (
        slice(low[0] + part[0].start, low[0] + part[0].stop),
        slice(low[1] + part[1].start * step, low[1] + (part[1].stop - 1) * step),
        slice(low[2] + part[2].start * step, low[2] + (part[2].stop - 1) * step),
    )


def _overlap(mesh: Mesh, near: Mesh) -> tuple[slice, slice, slice]:
    """Return the samples of ``mesh`` that ``near``, cut to it, covers."""
    spans = []
    for axis, (own, other) in enumerate((
        (mesh.slices, near.slices), (mesh.rows, near.rows), (mesh.columns, near.columns),
    )):  # fmt: skip
        step = 1 if axis == 0 else mesh.step
        start = max(0, (other.start - own.start) // step)
        stop = min(mesh.shape[axis], (other.stop - own.start) // step + (0 if axis == 0 else 1))
        spans.append(slice(start, max(start, stop)))
    return (spans[0], spans[1], spans[2])
