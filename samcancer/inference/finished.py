"""Where the results of a scan are, and whether they are what a run would write again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import read_json, sha256_of
from samcancer.inference.extras import are_whole
from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.prompts import NO_PROMPTS, CasePrompts
from samcancer.volume_io.formats import volume_suffix

REPORT_VERSION = 3
"""Form of the report; another number makes ``--skip-finished`` do the case again."""

_DEFAULT_SUFFIX = ".nii.gz"
"""Of the mask of a scan that is a DICOM folder."""


def finished_report(
    scan: Path,
    output: Path,
    *,
    case_id: str,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: CasePrompts = NO_PROMPTS,
) -> dict[str, Any] | None:
    """Return the report of a finished case, or None when it has to be (re)done.

    Finished means: the report asks for the same models, options and prompts, the mask and all other
    files have the sha256 that the report states, and the scan is the one that was segmented.
    """
    path = report_path(output, case_id)
    try:
        report = read_json(path)
    except InputError:
        return None
    try:
        mask = output / report["mask"]["file"]
        same = (
            report["format_version"] == REPORT_VERSION
            and report["request"] == request_sha256(ensemble, options, prompts)
            and mask == mask_path(output, case_id, scan)
            and mask.is_file()
            and report["mask"]["sha256"] == sha256_of(mask)
            and report["lesion_table"]["sha256"] == sha256_of(table_path(output, case_id))
            and are_whole(report["files"], output)
            and report["input"]["sha256"] == _source_sha256(scan, options)
        )
    except (KeyError, TypeError, AttributeError, FileNotFoundError):
        return None
    return dict(report) if same else None


def request_sha256(
    ensemble: Ensemble, options: InferenceOptions, prompts: CasePrompts = NO_PROMPTS
) -> str:
    """Return a hash of everything, apart from the scan, that decides the result."""
    content = {
        "software": __version__,
        "models": ensemble.sha256,
        "thresholds": ensemble.thresholds.tolist(),
        "calibration": [calibration.sha256 for calibration in ensemble.calibrations],
        "precision": options.engine.precision,
        "flip": options.engine.flip,
        "overlap": options.engine.overlap,
        "per_class": options.per_class,
        "probabilities": options.probabilities,
        "merge_lesions": options.merge_lesions,
        "postprocess": options.postprocess,
        "read": repr(options.read),
        "dicom": repr(options.dicom),
        "classes": ensemble.class_names,
        "text": ensemble.text_sha256,
        "region": ensemble.region and ensemble.region.sha256,
        "prompts": prompts.sha256(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def report_path(output: Path, case_id: str) -> Path:
    """Return where the report of a case is."""
    return output / f"{case_id}.json"


def table_path(output: Path, case_id: str) -> Path:
    """Return where the lesion table of a case is."""
    return output / f"{case_id}.lesions.csv"


def mask_path(output: Path, case_id: str, scan: Path) -> Path:
    """Return where the mask of a scan is, in the scan's own format."""
    return output / (case_id + mask_suffix(scan))


def mask_suffix(scan: Path) -> str:
    """Return the ending of a scan's mask."""
    return _DEFAULT_SUFFIX if scan.is_dir() else volume_suffix(scan) or _DEFAULT_SUFFIX


def _source_sha256(scan: Path, options: InferenceOptions) -> str:
    if scan.is_file():
        return sha256_of(scan)
    from samcancer.volume_io.dicom import series_sha256

    return series_sha256(scan, series=options.read.series, files=options.read.files)
