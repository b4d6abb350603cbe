"""Who the synthetic patient is and how the scan was made: every draw that is a plain number.

The reference patient, at scale 1, has a chest 300 mm wide and 210 mm deep under the skin and fat;
z = 0 is the top of the right diaphragm, the lung tips are at +225 mm, the iliac crests at -215 mm.
Hounsfield units by contrast phase follow textbook ranges (e.g. portal venous liver 100-120).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.fields import Frame

DEFAULT_IN_PLANE_PIXELS = 448
"""Rows and columns of a slice; with it, pixels measure 0.6 to 1 mm."""

PIXEL_RANGE_MM = (0.6, 1.0)
"""Pixel size at ``DEFAULT_IN_PLANE_PIXELS``."""

SLICE_THICKNESSES_MM = (1.0, 1.25, 2.0, 2.5, 3.0, 3.0, 4.0, 5.0, 5.0, 5.0)
"""Distances between slices, drawn evenly; repeated ones are common in practice."""

SLICE_COUNT_RANGE = (26, 64)
"""Least and most slices of a scan; thin slices therefore cover a shorter stretch of the body."""


class Phase(Enum):
    """When the scan was made after contrast was given."""

    PLAIN = "plain"
    ARTERIAL = "arterial"
    PORTAL = "portal"


class Coverage(Enum):
    """Which stretch of the body is scanned, as (lowest, highest) reference z in millimetres."""

    CHEST = (-75.0, 225.0)
    ABDOMEN = (-215.0, 35.0)
    BOTH = (-200.0, 190.0)


@dataclass(frozen=True)
class Patient:
    """Build of a patient; lengths in millimetres of the reference patient."""

    seed_dice: Dice
    """Stream that draws the organs' details."""
    scale: Vector
    fat_side_mm: float
    fat_front_mm: float
    fat_back_mm: float
    belly: float
    """How far the abdomen bulges: 0 flat, 1 far."""
    female: bool
    heart_turn: float
    organ_shift: Vector


@dataclass(frozen=True)
class Enhancement:
    """Hounsfield units of the tissues in one scan."""

    phase: Phase
    artery: float
    vein: float
    portal_vein: float
    liver: float
    spleen: float
    cortex: float
    medulla: float
    muscle: float
    myocardium: float
    bowel_wall: float
    fat: float
    pancreas: float


@dataclass(frozen=True)
class Protocol:
    """How a scan was made."""

    coverage: Coverage
    frame: Frame
    noise_hu: float
    """Standard deviation in the middle of the body."""
    sharpness: float
    """Reconstruction kernel: 0 smooth, 1 sharp."""
    blur_mm: float


def draw_patient(dice: Dice) -> Patient:
    """Draw a patient's build."""
    weight = dice.unit() * 0.7 + dice.unit() * 0.3
    tall = dice.uniform(0.93, 1.07)
    female = dice.chance(0.5)
    breadth = (0.94 if female else 1.0) * dice.uniform(0.94, 1.06)
    return Patient(
        seed_dice=dice.child("details"),
        scale=(breadth * (0.95 + 0.1 * weight), breadth * (0.95 + 0.14 * weight), tall),
        fat_side_mm=4.0 + 34.0 * weight * weight + dice.uniform(0.0, 4.0),
        fat_front_mm=5.0 + 30.0 * weight * weight + dice.uniform(0.0, 8.0),
        fat_back_mm=5.0 + 24.0 * weight * weight + dice.uniform(0.0, 6.0),
        belly=weight * dice.uniform(0.4, 1.0),
        female=female,
        heart_turn=dice.uniform(-1.0, 1.0),
        organ_shift=dice.near((0.0, 0.0, 0.0), spread_mm=6.0),
    )


def draw_enhancement(dice: Dice) -> Enhancement:
    """Draw a contrast phase and the tissues' Hounsfield units in it."""
    phase = dice.choice((Phase.PORTAL,) * 6 + (Phase.PLAIN,) * 2 + (Phase.ARTERIAL,) * 2)
    fatty = dice.unit()
    steatosis = 30.0 * fatty * fatty * fatty

    def value(plain: float, arterial: float, portal: float, spread: float) -> float:
        mean = {Phase.PLAIN: plain, Phase.ARTERIAL: arterial, Phase.PORTAL: portal}[phase]
        return mean + dice.uniform(-spread, spread)

    blood = value(40, 40, 40, 4)
    strength = dice.uniform(0.85, 1.15)
    artery, vein = value(0, 270, 105, 5) * strength, value(0, 60, 110, 5) * strength
    portal = value(0, 50, 125, 5) * strength
    return Enhancement(
        phase=phase,
        artery=blood + (artery if phase is not Phase.PLAIN else 0.0),
        vein=blood + (vein if phase is not Phase.PLAIN else 0.0),
        portal_vein=blood + (portal if phase is not Phase.PLAIN else 0.0),
        liver=value(57, 68, 108, 6) - steatosis,
        spleen=value(48, 105, 118, 6),
        cortex=value(33, 165, 175, 12),
        medulla=value(31, 70, 150, 8),
        muscle=value(52, 55, 60, 4),
        myocardium=value(42, 95, 105, 8),
        bowel_wall=value(42, 75, 90, 8),
        fat=value(-103, -103, -100, 6),
        pancreas=value(40, 90, 88, 8),
    )


def draw_protocol(
    dice: Dice,
    patient: Patient,
    coverage: Coverage,
    *,
    pixels: int,
    focus_z_mm: float | None = None,
) -> Protocol:
    """Draw the scanner's settings: grid, dose and kernel.

    Args:
        dice: The scan's stream.
        patient: Who lies in it.
        coverage: Stretch of the body; thin slices cover only a part of it, drawn here.
        pixels: Rows and columns; the field of view does not depend on it.
        focus_z_mm: Reference z that lies in the middle half of the scan; None for no such wish.
    """
    slice_mm = dice.choice(SLICE_THICKNESSES_MM)
    if coverage is Coverage.BOTH:
        slice_mm = max(slice_mm, dice.choice((4.0, 5.0, 5.0)))
    low, high = (z * patient.scale[2] for z in coverage.value)
    low, high = low + dice.uniform(-10.0, 15.0), high + dice.uniform(-15.0, 10.0)
    whole = int((high - low) / slice_mm)
    slices = min(max(whole, SLICE_COUNT_RANGE[0]), dice.integer(46, SLICE_COUNT_RANGE[1]))
    length = slices * slice_mm
    first, last = low, max(low, high - length)
    if focus_z_mm is not None:
        focus = focus_z_mm * patient.scale[2]
        first = min(max(first, focus - 0.75 * length), last)
        last = max(min(last, focus - 0.25 * length), first)
    bottom = round(dice.uniform(first, last), 2)
    width = 2.0 * (152.0 * patient.scale[0] + patient.fat_side_mm)
    pixel = width * dice.uniform(1.03, 1.16) / DEFAULT_IN_PLANE_PIXELS
    pixel = min(max(pixel, PIXEL_RANGE_MM[0]), PIXEL_RANGE_MM[1])
    pixel = round(pixel * DEFAULT_IN_PLANE_PIXELS / pixels, 4)
    frame = Frame(
        slices=slices,
        size=pixels,
        slice_mm=slice_mm,
        pixel_mm=pixel,
        bottom_mm=bottom,
        centre_xy_mm=(round(dice.uniform(-7.0, 7.0), 1), round(dice.uniform(-6.0, 12.0), 1)),
        scale=patient.scale,
    )
    sharpness = dice.unit()
    thin = math.sqrt(2.5 / slice_mm)
    noise = dice.log_uniform(6.0, 15.0) * min(max(thin, 0.75), 1.5) * (0.85 + 0.4 * sharpness)
    return Protocol(
        coverage=coverage,
        frame=frame,
        noise_hu=round(noise, 3),
        sharpness=sharpness,
        blur_mm=round(max(1.9 - 0.8 * sharpness, 1.1 * pixel), 3),
    )
