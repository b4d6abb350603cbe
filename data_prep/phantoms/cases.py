"""Which synthetic patients each data set holds and which of their lesions it tells of.

Three sets annotate one lesion kind each; further kinds grow in the same patients and are left
unlabelled. One set is healthy, which annotates all four kinds as absent. The test set labels
everything, its healthy patients included. No training set ever shows where a soft tissue lesion
is: a model can only be asked about that kind, not taught it, and the test set says what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.lesions import LesionKind
from data_prep.phantoms.nifti_out import draw_orientation, nifti_bytes
from data_prep.phantoms.patient import Coverage
from data_prep.phantoms.phantom import Phantom, make_phantom

_SCANS_PER_FOLLOW_UP = 5
"""In the training sets, every fifth case is a second scan of the patient before it."""

_TEST_HEALTHY_EVERY = 4
"""In the test set, every fourth patient is healthy."""

_OTHER_KIND_CHANCE = 0.45
_MOST_KINDS = 3

_MOST_LESIONS = {
    LesionKind.LIVER: 4,
    LesionKind.KIDNEY: 2,
    LesionKind.LUNG: 4,
    LesionKind.SOFT_TISSUE: 1,
}

_ORGAN_COVERAGES: dict[LesionKind, tuple[Coverage, ...]] = {
    LesionKind.LIVER: (Coverage.ABDOMEN, Coverage.ABDOMEN, Coverage.BOTH),
    LesionKind.KIDNEY: (Coverage.ABDOMEN, Coverage.ABDOMEN, Coverage.BOTH),
    LesionKind.LUNG: (Coverage.CHEST, Coverage.CHEST, Coverage.BOTH),
    LesionKind.SOFT_TISSUE: tuple(Coverage),
}


@dataclass(frozen=True)
class PhantomSet:
    """A data set to write."""

    folder: str
    title: str
    annotates: tuple[LesionKind, ...]
    """Kinds whose lesions its labels tell of, numbered from 1 in this order."""
    diseased: bool
    test: bool = False

    @property
    def labels(self) -> dict[str, int]:
        """Class name -> label value, as dataset.json has it."""
        return {"background": 0} | {k.value: n for n, k in enumerate(self.annotates, start=1)}


PHANTOM_SETS: tuple[PhantomSet, ...] = (
    PhantomSet("Dataset901_Phantom_Liver", "liver lesions annotated", (LesionKind.LIVER,), True),
    PhantomSet("Dataset902_Phantom_Kidney", "kidney lesions annotated", (LesionKind.KIDNEY,), True),
    PhantomSet("Dataset903_Phantom_Lung", "lung lesions annotated", (LesionKind.LUNG,), True),
    PhantomSet("Dataset904_Phantom_Healthy", "healthy: no lesions", tuple(LesionKind), False),
    PhantomSet(
        "Dataset905_Phantom_Test", "hidden test: all annotated", tuple(LesionKind), True, test=True
    ),
)


@dataclass(frozen=True)
class CaseFiles:
    """The two files of a case, as bytes, and what is in them."""

    image: bytes
    label: bytes
    orientation: str
    phantom: Phantom


def case_name(phantom_set: PhantomSet, number: int) -> str:
    """Return a case's name: unique over all sets."""
    return f"{phantom_set.folder.split('_', 1)[1].lower()}_{number:03d}"


def patient_name(phantom_set: PhantomSet, number: int) -> str:
    """Return the patient of a case; follow-up scans share it."""
    return f"{case_name(phantom_set, _patient_number(phantom_set, number))}_patient"


def _patient_number(phantom_set: PhantomSet, number: int) -> int:
    last = _SCANS_PER_FOLLOW_UP - 1
    follow_up = not phantom_set.test and number % _SCANS_PER_FOLLOW_UP == last
    return number - 1 if follow_up else number


def make_case(phantom_set: PhantomSet, number: int, *, seed: int, pixels: int) -> CaseFiles:
    """Make one case; it depends on the seed, the set, the number and the pixels alone.

    Args:
        phantom_set: The data set.
        number: The case's number, from 0.
        seed: Seed of the whole collection.
        pixels: Rows and columns of a slice.
    """
    set_dice = Dice(seed).child(phantom_set.folder)
    patient_dice = set_dice.child(f"patient {_patient_number(phantom_set, number)}")
    scan_dice = set_dice.child(f"scan {number}")
    coverage, counts = _draw_disease(scan_dice.child("disease"), phantom_set, number)
    phantom = make_phantom(
        patient_dice.child("body"),
        scan_dice,
        coverage=coverage,
        lesions=counts,
        pixels=pixels,
        focus=next(iter(counts), None),
    )
    orientation = draw_orientation(scan_dice.child("orientation"))
    origin = _origin(scan_dice.child("origin"), phantom)
    frame = phantom.protocol.frame
    spacing = (frame.pixel_mm, frame.pixel_mm, frame.slice_mm)
    image, label = (
        nifti_bytes(
            values, orientation, spacing_xyz_mm=spacing, origin_lps_mm=origin,
            description="synthetic phantom, not a patient",
        )
        for values in (phantom.hu, _told(phantom.labels, phantom_set.annotates))
    )  # fmt: skip
    return CaseFiles(image, label, orientation.code, phantom)


def _told(
    labels: npt.NDArray[np.uint8], annotates: tuple[LesionKind, ...]
) -> npt.NDArray[np.uint8]:
    """Keep the annotated kinds, numbered as the data set numbers them."""
    table = np.zeros(256, np.uint8)
    for number, kind in enumerate(annotates, start=1):
        table[kind.value_in_labels] = number
    return table[labels]


def _draw_disease(
    dice: Dice, phantom_set: PhantomSet, number: int
) -> tuple[Coverage, dict[LesionKind, int]]:
    healthy = not phantom_set.diseased
    if phantom_set.test and number % _TEST_HEALTHY_EVERY == _TEST_HEALTHY_EVERY - 1:
        healthy = True
    if healthy:
        return dice.choice(tuple(Coverage)), {}
    if phantom_set.test:
        rank = number - (number + 1) // _TEST_HEALTHY_EVERY
        main = list(LesionKind)[rank % len(LesionKind)]
    else:
        main = phantom_set.annotates[0]
    coverage = dice.choice(_ORGAN_COVERAGES[main])
    counts = {main: dice.integer(1, _MOST_LESIONS[main])}
    for kind in LesionKind:
        fits = coverage in _ORGAN_COVERAGES[kind] and len(counts) < _MOST_KINDS
        if kind not in counts and fits and dice.chance(_OTHER_KIND_CHANCE):
            counts[kind] = dice.integer(1, _MOST_LESIONS[kind])
    return coverage, counts


def _origin(dice: Dice, phantom: Phantom) -> Vector:
    """Return where the canonical first voxel lies: patient coordinates and a table position."""
    frame = phantom.protocol.frame
    zero = np.zeros(1)
    x, y = float(frame.x_mm(zero)[0]), float(frame.y_mm(zero)[0])
    table_x, table_y, table_z = dice.near((0.0, -60.0, -400.0), spread_mm=25.0)
    return (
        round(x + table_x, 3),
        round(y + table_y, 3),
        round(frame.bottom_mm + table_z * 2.0, 3),
    )
