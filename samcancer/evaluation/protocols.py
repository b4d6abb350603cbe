"""How one class of one case is scored: the rules of each protocol, empty masks included.

=================  ==========  =============  ==================  ==================
protocol           both empty  one empty      Dice under 0.2      missing prediction
=================  ==========  =============  ==================  ==================
``flare24``        1 / 1       0 / 0          NSD is 0            0 / 0
``nnunet``         NaN / NaN   0 / 0          NSD as it is        0 / 0
=================  ==========  =============  ==================  ==================

``flare24`` (Dice / NSD, each rounded to 4 decimals) is the FLARE 2024 task 1 script of
https://github.com/JunMa11/FLARE: one binary lesion class; a prediction with a value over 1 scores
0.
``nnunet`` is Dice and IoU as nnU-Net v2's ``summary.json`` has them, plus NSD.
NaN leaves a case out of its class's mean. NSD is the normalised surface Dice at 2 mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from samcancer.evaluation.surface import surface_dice

Protocol = Literal["flare24", "nnunet"]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

TOLERANCE_MM = 2.0
"""Tolerance of the normalised surface Dice."""

FLARE_MIN_DICE = 0.2
"""Under this Dice, FLARE sets NSD to 0."""

_FLARE_DECIMALS = 4
"""Decimals that the FLARE script rounds each case to."""


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


def count_voxels(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Counts:
    """Count the voxels of two masks of the same shape by outcome."""
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {prediction.shape}")
    both = int(np.count_nonzero(reference & prediction))
    in_reference = int(np.count_nonzero(reference))
    in_prediction = int(np.count_nonzero(prediction))
    either = in_reference + in_prediction - both
    return Counts(both, in_prediction - both, in_reference - both, reference.size - either)


def score_masks(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
    protocol: Protocol,
    tolerance_mm: float = TOLERANCE_MM,
) -> Score:
    """Score one class of one case.

    Args:
        reference: (slice, row, column) mask.
        prediction: Mask of the same shape.
        spacing_mm: Distance between (slices, rows, columns).
        protocol: Which rules.
        tolerance_mm: Of NSD.
    """
    counts = count_voxels(reference, prediction)
    if counts.reference == 0 and counts.prediction == 0:
        value = 1.0 if protocol == "flare24" else math.nan
        return Score(value, value, value)
    if counts.reference == 0 or counts.prediction == 0:
        return failed_score()
    dice = 2 * counts.true_positive / (counts.reference + counts.prediction)
    iou = counts.true_positive / (counts.reference + counts.prediction - counts.true_positive)
    if protocol == "flare24" and dice < FLARE_MIN_DICE:
        nsd = 0.0
    else:
        nsd = surface_dice(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    if protocol == "flare24":
        return Score(*(round(value, _FLARE_DECIMALS) for value in (dice, iou, nsd)))
    return Score(dice, iou, nsd)


def failed_score() -> Score:
    """Return the score of a missing prediction, and of one whose values the protocol forbids."""
    return Score(0.0, 0.0, 0.0)
