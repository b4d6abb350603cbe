"""Types and results by hand, shared by the tests of this folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from samcancer.evaluation.lesions import Lesion, Side
from samcancer.evaluation.protocols import Counts, Score
from samcancer.evaluation.scoring import ClassResult

WriteLabels = Callable[..., Path]

VOXELS = 1000
"""Of every volume by hand."""


def fake_result(
    case_id: str,
    class_name: str = "liver_lesion",
    *,
    reference: int = 0,
    prediction: int = 0,
    common: int = 0,
    dice: float = math.nan,
    nsd: float = math.nan,
    detected: int = 0,
    missed: int = 0,
    true: int = 0,
    false: int = 0,
    unverified: int = 0,
    unverified_in_reference: int = 0,
    unverified_lesions: int | None = None,
    annotated: bool = True,
    whole: bool | None = None,
    missing: bool = False,
) -> ClassResult:
    """Return a result with so many voxels, lesions of either side and unverified voxels."""
    either = reference + prediction - common
    counts = Counts(common, prediction - common, reference - common, VOXELS - either)
    lesions = [
        *_lesions("reference", detected, 1.0),
        *_lesions("reference", missed, 0.0),
        *_lesions("prediction", true, 1.0),
        *_lesions("prediction", false, 0.0),
    ]
    return ClassResult(
        case_id=case_id,
        class_name=class_name,
        kind="lesion",
        annotated=annotated,
        missing=missing,
        score=Score(dice, math.nan, nsd),
        counts=counts,
        voxel_volume_ml=0.001,
        lesions=tuple(lesions),
        unverified_voxels=unverified,
        unverified_in_reference=unverified_in_reference,
        unverified_lesions=int(unverified > 0)
        if unverified_lesions is None
        else unverified_lesions,
        whole=annotated if whole is None else whole,
    )


def _lesions(side: Side, count: int, overlap: float) -> list[Lesion]:
    return [Lesion(side, 1.0, overlap, (0.0, 0.0, 0.0))] * count
