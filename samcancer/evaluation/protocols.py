"""How one class of one case is scored: the rules of each protocol, empty masks included.

=================  ==========  =============  ==================  ==================
protocol           both empty  one empty      Dice under 0.2      missing prediction
=================  ==========  =============  ==================  ==================
``flare24``        1 / 1       0 / 0          NSD is 0            0 / 0
``flare23``        1 / 1       0 / 0          NSD is 0            0 / 0
``nnunet``         NaN / NaN   0 / 0          NSD as it is        0 / 0
=================  ==========  =============  ==================  ==================

``flare24`` (Dice / NSD, each rounded to 4 decimals) is the FLARE 2024 task 1 script of
https://github.com/JunMa11/FLARE: one binary lesion class; a prediction with a value over 1 scores
0. ``flare23`` is the FLARE 2023 script of the same repository: 13 organs and tumor, a tolerance
for each; of the three organs that leave the scan or of which only a part is labelled, only the
reference's slices count.
``nnunet`` is Dice and IoU as nnU-Net v2's ``summary.json`` has them, plus NSD.
NaN leaves a case out of its class's mean. NSD is the normalised surface Dice, at 2 mm where the
protocol says nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.evaluation.classes import taxonomy_name
from samcancer.evaluation.surface import surface_dice

Protocol = Literal["flare24", "flare23", "nnunet"]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

TOLERANCE_MM = 2.0
"""Tolerance of the normalised surface Dice."""

FLARE23_TOLERANCES_MM = {
    "liver": 5.0,
    "kidney_right": 3.0,
    "spleen": 3.0,
    "pancreas": 5.0,
    "aorta": 2.0,
    "inferior_vena_cava": 2.0,
    "adrenal_gland_right": 2.0,
    "adrenal_gland_left": 2.0,
    "gallbladder": 2.0,
    "esophagus": 3.0,
    "stomach": 5.0,
    "duodenum": 7.0,
    "kidney_left": 3.0,
    "lesion": 2.0,
}
"""Tolerance of each class of FLARE 2023, by its name in the taxonomy."""

FLARE23_LABELLED_SLICES_ONLY = frozenset({"aorta", "inferior_vena_cava", "esophagus"})
"""Organs that FLARE 2023 compares in the reference's slices alone, the last one left out."""

FLARE_MIN_DICE = 0.2
"""Under this Dice, FLARE sets NSD to 0."""

FLARE_DECIMALS = 4
"""Decimals that the FLARE scripts round each case and each mean to."""

_FLARE: tuple[Protocol, ...] = ("flare24", "flare23")


@dataclass(frozen=True)
class ClassRules:
    """What a protocol says of one class."""

    tolerance_mm: float = TOLERANCE_MM
    """Of NSD."""
    labelled_slices_only: bool = False
    """Whether only the slices that hold the class in the reference are compared."""


@dataclass(frozen=True)
class Counts:
    """Voxels of one class of one case by outcome."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.true_positive + self.false_positive


@dataclass(frozen=True)
class Score:
    """Dice, IoU and NSD of one class of one case; NaN where the protocol defines none."""

    dice: float
    iou: float
    nsd: float


def class_rules(
    protocol: Protocol, class_name: str, *, tolerance_mm: float | None = None
) -> ClassRules:
    """Return what a protocol says of a class.

    Args:
        protocol: Which rules.
        class_name: Any name that the taxonomy knows the class by.
        tolerance_mm: Instead of the protocol's.

    Raises:
        InputError: When ``flare23`` does not score the class, or is asked for another tolerance.
    """
    if protocol != "flare23":
        return ClassRules(TOLERANCE_MM if tolerance_mm is None else tolerance_mm)
    if tolerance_mm is not None:
        raise InputError(
            f"flare23 has a tolerance for each class, got {tolerance_mm:g} mm for all",
            mend="leave --tolerance out",
        )
    name = taxonomy_name(class_name)
    if name not in FLARE23_TOLERANCES_MM:
        raise InputError(
            f"flare23 does not score the class {class_name!r}",
            mend=f"name its classes with --labels: {', '.join(FLARE23_TOLERANCES_MM)}; "
            "--merge-lesions joins lesion classes",
        )
    return ClassRules(FLARE23_TOLERANCES_MM[name], name in FLARE23_LABELLED_SLICES_ONLY)


def count_voxels(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], *, of: int | None = None
) -> Counts:
    """Count the voxels of two masks of the same shape by outcome.

    Args:
        reference: Any mask.
        prediction: Mask of the same shape.
        of: Voxels of the whole volume, where the masks are a box of it; None when they are all.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {prediction.shape}")
    both = int(np.count_nonzero(reference & prediction))
    in_reference = int(np.count_nonzero(reference))
    in_prediction = int(np.count_nonzero(prediction))
    either = in_reference + in_prediction - both
    size = reference.size if of is None else of
    return Counts(both, in_prediction - both, in_reference - both, size - either)


def score_masks(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
    protocol: Protocol,
    tolerance_mm: float = TOLERANCE_MM,
    labelled_slices_only: bool = False,
) -> Score:
    """Score one class of one case.

    Args:
        reference: (slice, row, column) mask.
        prediction: Mask of the same shape.
        spacing_mm: Distance between (slices, rows, columns).
        protocol: Which rules.
        tolerance_mm: Of NSD.
        labelled_slices_only: Compare in the reference's slices alone; what is predicted in others
            is neither right nor wrong.
    """
    if not reference.any() and not prediction.any():
        value = 1.0 if protocol in _FLARE else math.nan
        return Score(value, value, value)
    if not reference.any() or not prediction.any():
        return failed_score()
    if labelled_slices_only:
        kept = _compared_slices(reference)
        reference, prediction = reference[kept], prediction[kept]
    counts = count_voxels(reference, prediction)
    dice = 2 * counts.true_positive / (counts.reference + counts.prediction)
    iou = counts.true_positive / (counts.reference + counts.prediction - counts.true_positive)
    if (protocol in _FLARE and dice < FLARE_MIN_DICE) or not prediction.any():
        nsd = 0.0
    else:
        nsd = surface_dice(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    if protocol in _FLARE:
        return Score(*(flare_rounded(value) for value in (dice, iou, nsd)))
    return Score(dice, iou, nsd)


def failed_score() -> Score:
    """Return the score of a missing prediction, and of one whose values the protocol forbids."""
    return Score(0.0, 0.0, 0.0)


def flare_rounded(value: float) -> float:
    """Round as the FLARE scripts do: by NumPy, whose ties differ from Python's."""
    return float(np.round(value, FLARE_DECIMALS))


def _compared_slices(reference: NDArray[np.bool_]) -> slice:
    """Return the slices from the first labelled one up to, and without, the last labelled one.

    The challenge's script leaves the last one out. Of a reference on one slice that leaves nothing
    and its script fails; here that slice is compared.
    """
    labelled = np.flatnonzero(reference.any(axis=(1, 2)))
    first, last = int(labelled[0]), int(labelled[-1])
    return slice(first, max(last, first + 1))
