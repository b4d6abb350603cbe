"""The calibration of a model on disk: a sealed JSON beside its weights, for these weights alone.

    RUNS/final/calibration.json     thresholds of every lesion class, SHA-256 of the tensors that
                                    they were fitted for, where they were fitted, and of itself

Written by samcancer.calibration, read wherever a model is loaded to segment scans. A file that was
changed, or that is of other weights, is refused: thresholds of another model promise nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import read_sealed_json, write_sealed_json

CALIBRATION_NAME = "calibration.json"

FORMAT_VERSION = 1
"""Of the JSON; a reader refuses any other."""

_MEND = "run calibrate again, or pass --no-calibration"


@dataclass(frozen=True, kw_only=True)
class ClassThresholds:
    """What of a class is let through."""

    presence: float
    """A slice has voxels of the class from this presence probability on."""
    probability: float
    """A voxel belongs to the class above this probability."""
    min_volume_ml: float
    """Components smaller than this are removed."""


@dataclass(frozen=True)
class Calibration:
    """Thresholds of the classes of one model."""

    classes: dict[str, ClassThresholds]
    max_fp_scans: float
    """Share of healthy scans with a false lesion that was asked for."""
    sha256: str
    """Of everything the file says."""


def write_calibration(
    run: Path,
    *,
    model_sha256: str,
    classes: Mapping[str, ClassThresholds],
    max_fp_scans: float,
    figures: Mapping[str, Any],
) -> str:
    """Write the calibration of a run's best model atomically; return its hash.

    Args:
        run: Folder of the run.
        model_sha256: Of the tensor file that the thresholds are for.
        classes: Class -> thresholds.
        max_fp_scans: Share of healthy scans with a false lesion that was asked for.
        figures: What else to keep: where it was fitted and what was found.
    """
    content = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "safetensors_sha256": model_sha256,
        "max_fp_scans": max_fp_scans,
        "classes": {name: asdict(thresholds) for name, thresholds in classes.items()},
        **figures,
    }
    return write_sealed_json(run / CALIBRATION_NAME, content)


def read_calibration(run: Path, *, model_sha256: str) -> Calibration | None:
    """Return the calibration of a run's model; None where it has none.

    Args:
        run: Folder of the run.
        model_sha256: Of the tensor file that was loaded.

    Raises:
        InputError: When it was changed, is of another format, or of other weights.
    """
    path = run / CALIBRATION_NAME
    if not path.exists():
        return None
    content, sha256 = read_sealed_json(
        path, kind="calibration", key="max_fp_scans", version=FORMAT_VERSION, mend=_MEND
    )
    if content["safetensors_sha256"] != model_sha256:
        raise InputError("was fitted for other weights than these", path=path, mend=_MEND)
    classes = {name: ClassThresholds(**values) for name, values in content["classes"].items()}
    return Calibration(classes, float(content["max_fp_scans"]), sha256)
