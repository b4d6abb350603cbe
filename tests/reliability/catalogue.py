"""The catalogue: what can be wrong, and every variant of it that a test has to provoke.

A test says what it provokes with :func:`provokes`; test_catalogue_is_complete.py demands at least
one test for each line below. docs/reliability.md tells users the same rows.
"""

from __future__ import annotations

import pytest

CATALOGUE: dict[str, tuple[str, ...]] = {
    "sheared affine": ("refused", "repaired when slight", "nearest rotation"),
    "qform and sform": ("sheared sform", "apart", "choice", "both codes 0"),
    "orientation": ("axis-aligned", "left-handed", "oblique"),
    "label grid": ("prepare-slices", "evaluate"),
    "label values": ("unknown", "fractions", "integral floats", "above 255"),
    "voxel values": ("NaN", "infinite", "beyond int16", "nan-fill"),
    "not HU": ("NIfTI", "DICOM"),
    "rescale": ("applied", "out of range"),
    "dimensions": ("4-D", "2-D", "colour", "one point in time"),
    "few slices": ("1", "2", "3", "4"),
    "sizes": ("1000 slices", "16 to 2048 pixels", "0.5 to 10 mm", "memory estimate"),
    "spacing": ("0", "NaN"),
    "DICOM gap": ("inside", "end"),
    "DICOM series": (
        "double slice",
        "two series",
        "localizer",
        "gantry tilt",
        "0 bytes",
        "cut",
        "slope of each slice",
        "compressed",
    ),
    "damaged volume": ("cut", "flipped", "0 bytes", "text", "other ending"),
    "paths": ("unicode and spaces", "read-only output"),
    "disk full": ("before", "while writing", "silently"),
    "SIGKILL": ("prepare-slices", "train-fold", "infer-volume"),
    "two writers": ("prepare-slices", "train-fold", "pseudo-label", "infer-volume", "after a kill"),
    "worker death": ("prepare-slices", "train-fold"),
    "checkpoint": ("corrupt", "foreign", "other configuration", "other classes"),
    "resume": ("missing",),
    "hostile checkpoint": ("renamed pickle", "pth", "lying header", "taxonomy"),
    "leakage": ("patient in two folds", "teacher saw the patient"),
    "nothing to learn": ("empty", "no positives", "all unlabelled", "class never annotated"),
    "unlabelled case": ("unknown",),
    "GPU memory": ("halved", "other errors"),
    "NaN loss": ("stops",),
    "PHI": ("DICOM tags", "folders"),
}
"""Row -> its variants."""


def provokes(row: str, *variants: str) -> pytest.MarkDecorator:
    """Mark a test, or a parameter, with what it provokes.

    Raises:
        KeyError: When the catalogue has no such row.
        ValueError: When the row has no such variant.
    """
    unknown = [v for v in variants if v not in CATALOGUE[row]]
    if unknown or not variants:
        raise ValueError(f"{row!r} has the variants {CATALOGUE[row]}, not {unknown}")
    return pytest.mark.catalogue(row, *variants)
