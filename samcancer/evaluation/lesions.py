"""Lesions one by one: which were found, which predictions are real, by size.

A lesion is a connected component (26-connectivity) of a class's mask. A reference lesion counts as
*detected* when predicted voxels of its class cover at least ``MIN_OVERLAP`` of its volume; a
predicted lesion is *true* when reference voxels cover at least ``MIN_OVERLAP`` of it. The two sides
are judged apart, so that a prediction that joins two lesions, or splits one, is neither punished
twice nor rewarded twice, and no assignment between lesions has to be guessed. Recall is detected
reference lesions / reference lesions, precision is true predicted lesions / predicted lesions;
recall of a size band is over reference lesions of that size, precision over predicted ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samcancer.evaluation.boxes import bounding_box
from samcancer.evaluation.statistics import harmonic_mean, none_if_nan, ratio

MIN_OVERLAP = 0.1
"""Share of a lesion's volume that the other side has to cover."""

SIZE_BANDS_ML: tuple[tuple[float, float], ...] = ((0.0, 1.0), (1.0, 10.0), (10.0, math.inf))
"""Lesion volumes in ml, lower end included, upper end not."""

_NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
"""26-connectivity."""

Side = Literal["reference", "prediction"]


@dataclass(frozen=True)
class Lesion:
    """One lesion of one side."""

    side: Side
    volume_ml: float
    overlap: float
    """Share of its voxels that the other side's mask covers."""
    centre_zyx: tuple[float, float, float]
    """Centre of its voxels, in voxel indices (slice, row, column) of the file."""

    @property
    def matched(self) -> bool:
        """Whether it is detected (reference) or true (prediction)."""
        return self.overlap >= MIN_OVERLAP

    @property
    def band(self) -> str:
        """Name of its size band."""
        return next(band_name(b) for b in SIZE_BANDS_ML if b[0] <= self.volume_ml < b[1])


@dataclass(frozen=True)
class LesionTable:
    """Lesion-wise counts and their shares."""

    reference: int
    detected: int
    prediction: int
    true: int

    @property
    def recall(self) -> float:
        """Detected share of the reference lesions; NaN when there is none."""
        return ratio(self.detected, self.reference)

    @property
    def precision(self) -> float:
        """True share of the predicted lesions; NaN when there is none."""
        return ratio(self.true, self.prediction)

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision; NaN when one of them is."""
        return harmonic_mean(self.recall, self.precision)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, NaN as None."""
        return {
            "reference_lesions": self.reference,
            "detected": self.detected,
            "predicted_lesions": self.prediction,
            "true": self.true,
            "recall": none_if_nan(self.recall),
            "precision": none_if_nan(self.precision),
            "f1": none_if_nan(self.f1),
        }


def find_lesions(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    voxel_volume_ml: float,
    start: tuple[int, int, int] = (0, 0, 0),
) -> list[Lesion]:
    """Return the lesions of both sides of one class of one case, reference first.

    Args:
        reference: (slice, row, column) mask, the whole volume or a box of it.
        prediction: Mask of the same shape.
        voxel_volume_ml: Volume of one voxel.
        start: First voxel of the box in the volume.
    """
    return [
        *_lesions_of("reference", reference, prediction, voxel_volume_ml, start),
        *_lesions_of("prediction", prediction, reference, voxel_volume_ml, start),
    ]


def count_components(mask: NDArray[np.bool_]) -> int:
    """Return the number of lesions in a mask."""
    if not mask.any():
        return 0
    return int(ndimage.label(mask[bounding_box(mask)], structure=_NEIGHBOURHOOD)[1])


def tabulate(lesions: Sequence[Lesion]) -> LesionTable:
    """Count lesions and matches."""
    reference = [lesion for lesion in lesions if lesion.side == "reference"]
    prediction = [lesion for lesion in lesions if lesion.side == "prediction"]
    return LesionTable(
        len(reference),
        sum(lesion.matched for lesion in reference),
        len(prediction),
        sum(lesion.matched for lesion in prediction),
    )


def tabulate_by_band(lesions: Sequence[Lesion]) -> dict[str, LesionTable]:
    """Count lesions and matches for each size band, and for all sizes under ``all``."""
    names = [band_name(band) for band in SIZE_BANDS_ML]
    tables = {name: tabulate([x for x in lesions if x.band == name]) for name in names}
    return {"all": tabulate(lesions), **tables}


def band_name(band: tuple[float, float]) -> str:
    """Return a band as text, for example ``1-10 ml``."""
    lower, upper = band
    if math.isinf(upper):
        return f">= {lower:g} ml"
    return f"< {upper:g} ml" if lower == 0 else f"{lower:g}-{upper:g} ml"


def _lesions_of(
    side: Side,
    own: NDArray[np.bool_],
    other: NDArray[np.bool_],
    voxel_volume_ml: float,
    start: tuple[int, int, int],
) -> list[Lesion]:
    if not own.any():
        return []
    box = bounding_box(own)
    labels, count = ndimage.label(own[box], structure=_NEIGHBOURHOOD)
    indices = np.arange(1, count + 1)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(labels[other[box]], minlength=count + 1)[1:]
    centres = ndimage.center_of_mass(own[box], labels, indices)
    origin = [first + s.start for first, s in zip(start, box, strict=True)]
    return [
        Lesion(
            side,
            float(voxels[i] * voxel_volume_ml),
            float(covered[i] / voxels[i]),
            (
                float(centres[i][0] + origin[0]),
                float(centres[i][1] + origin[1]),
                float(centres[i][2] + origin[2]),
            ),
        )
        for i in range(count)
    ]
