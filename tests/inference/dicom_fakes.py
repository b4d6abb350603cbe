"""A CT series whose results in DICOM are known in advance, and what segments it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ct_series import write_ct_series
from inference_fakes import bright_box, make_ensemble

from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import segment_scan
from samcancer.taxonomy import PostProcess, load_taxonomy

CLASSES = load_taxonomy().classes

CASE = "case 7"


def liver_and_tumors() -> Ensemble:
    """Liver is above 200 HU, its tumor above 650; nothing is bright enough for the kidney's."""
    liver, tumor, other = (
        replace(CLASSES[name], postprocess=PostProcess())
        for name in ("liver", "liver_tumor", "kidney_tumor")
    )
    ensemble = make_ensemble(liver, tumor, other, thresholds_hu=(200.0, 650.0, 3000.0))
    return replace(ensemble, organs={"liver": CLASSES["liver"], "kidneys": CLASSES["kidneys"]})


def two_tumors() -> np.ndarray:
    """The bright box with a second bright core."""
    volume = bright_box()
    volume[3:5, 14:17, 19:23] = 800
    return volume


def write_series(folder: Path, volume: np.ndarray | None = None, **changes: Any) -> Path:
    return write_ct_series(folder, two_tumors() if volume is None else volume, **changes)


def segment(scan: Path, output: Path, **options: Any) -> dict[str, Any]:
    return segment_scan(
        scan,
        output,
        case_id=CASE,
        ensemble=options.pop("ensemble", None) or liver_and_tumors(),
        options=InferenceOptions(**options),
    )
