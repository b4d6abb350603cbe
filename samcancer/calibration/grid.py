"""The candidates: every combination of presence threshold, probability threshold and volume.

The probability is never under 0.5: a lower one would buy lesions found, of which a tenth has to be
covered, with outlines far too large. Presence may go either way, since validation chose it by Dice.
Arrays over the candidates have the axes (presence, probability, volume), each ascending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.modeling.slice_prediction import logit_thresholds
from samcancer.training.calibration_file import ClassThresholds
from samcancer.training.validate import THRESHOLD_CANDIDATES

PRESENCE_CANDIDATES = (*THRESHOLD_CANDIDATES, 0.99)
"""Those of validation and a stricter one."""

PROBABILITY_CANDIDATES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

VOLUME_CANDIDATES_ML = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Smallest component that is kept."""

Index = tuple[int, int, int]
"""Place of a candidate on the three axes."""


@dataclass(frozen=True)
class Grid:
    """All candidates; the axes ascend."""

    presence: tuple[float, ...]
    probability: tuple[float, ...]
    min_volume_ml: tuple[float, ...]

    @property
    def shape(self) -> Index:
        """Number of candidates on each axis."""
        return len(self.presence), len(self.probability), len(self.min_volume_ml)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits of the probability thresholds, as inference compares with them."""
        values: NDArray[np.float32] = logit_thresholds(self.probability).numpy()
        return values

    def index_of(self, thresholds: ClassThresholds) -> Index:
        """Return the place of thresholds that are among the candidates; ValueError otherwise."""
        return (
            self.presence.index(thresholds.presence),
            self.probability.index(thresholds.probability),
            self.min_volume_ml.index(thresholds.min_volume_ml),
        )

    def thresholds(self, index: Index) -> ClassThresholds:
        """Return a candidate."""
        return ClassThresholds(
            presence=self.presence[index[0]],
            probability=self.probability[index[1]],
            min_volume_ml=self.min_volume_ml[index[2]],
        )

    def steps_from(self, index: Index) -> NDArray[np.int64]:
        """Return for every candidate how many steps on the three axes it is away from one."""
        axes = [np.abs(np.arange(n) - i) for n, i in zip(self.shape, index, strict=True)]
        return axes[0][:, None, None] + axes[1][:, None] + axes[2]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {name: list(values) for name, values in asdict(self).items()}


def grid_with(own: Iterable[ClassThresholds]) -> Grid:
    """Return the candidates, with the thresholds that a model has among them."""
    given = list(own)
    return Grid(
        tuple(sorted({*PRESENCE_CANDIDATES, *(t.presence for t in given)})),
        tuple(sorted({*PROBABILITY_CANDIDATES, *(t.probability for t in given)})),
        tuple(sorted({*VOLUME_CANDIDATES_ML, *(t.min_volume_ml for t in given)})),
    )
