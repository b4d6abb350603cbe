"""Calibrations of several models as one, and a class that only large enough lesions are kept of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from samcancer.taxonomy import ClassSpec
from samcancer.training.calibration_file import Calibration, ClassThresholds

_log = logging.getLogger(__name__)


def mean_calibration(calibrations: Sequence[Calibration]) -> dict[str, ClassThresholds]:
    """Return class -> mean thresholds, as an ensemble's presence thresholds are averaged.

    The budget was kept by each model alone; what their mean does to healthy scans was not measured,
    which a warning says.

    Args:
        calibrations: One or more, of models with the same classes.
    """
    if len(calibrations) > 1:
        _log.warning(
            "the calibrations of %d models are averaged: the share of healthy scans with a false "
            "lesion was measured for each alone, not for their mean",
            len(calibrations),
        )
    names = [n for n in calibrations[0].classes if all(n in c.classes for c in calibrations)]
    return {name: _mean([c.classes[name] for c in calibrations]) for name in names}


def with_min_volume(spec: ClassSpec, min_volume_ml: float) -> ClassSpec:
    """Return a class whose components under a volume are removed, or under its own if larger."""
    largest = max(spec.postprocess.min_volume_ml, min_volume_ml)
    return replace(spec, postprocess=replace(spec.postprocess, min_volume_ml=largest))


def _mean(thresholds: Sequence[ClassThresholds]) -> ClassThresholds:
    return ClassThresholds(
        presence=fmean(t.presence for t in thresholds),
        probability=fmean(t.probability for t in thresholds),
        min_volume_ml=fmean(t.min_volume_ml for t in thresholds),
    )
