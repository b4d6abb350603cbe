"""A synthetic scan with two lesions, its mask and its report, for tests of pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from samcancer.geometry import Geometry
from samcancer.inference.lesion_table import MeasuredLesion
from samcancer.volume_io import write_ct, write_labels

GEOMETRY = Geometry(
    size_xyz=(48, 40, 20),
    spacing_mm=(2.0, 2.5, 4.0),
    origin_mm=(-48.0, -50.0, 100.0),
    direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
)

REPORT: dict[str, Any] = {
    "format_version": 3,
    "case": "patient-7",
    "labels": {"background": 0, "liver_lesion": 1, "kidney_lesion": 2},
    "classes": {
        "liver_lesion": {"label": 1, "kind": "lesion", "presence_max": 0.97},
        "kidney_lesion": {"label": 2, "kind": "lesion", "presence_max": 0.88},
        "lung_lesion": {"label": None, "kind": "lesion", "volume_ml": 0.0, "presence_max": 0.03},
    },
    "model": {
        "sha256": ["ab" * 32],
        "presence_thresholds": {"liver_lesion": 0.4, "kidney_lesion": 0.5, "lung_lesion": 0.6},
    },
    "input": {"sha256": "cd" * 32},
    "software": "samcancer 0.1.0",
    "warnings": [],
}


def scan_hu(shape: tuple[int, int, int] = GEOMETRY.shape) -> np.ndarray:
    """Return an elliptic body with a gradient along every axis, in air."""
    slices, rows, columns = shape
    z, y, x = np.mgrid[:slices, :rows, :columns]
    inside = ((y - rows / 2) / (0.4 * rows)) ** 2 + ((x - columns / 2) / (0.42 * columns)) ** 2 < 1
    hu = np.where(inside, -60 + 3 * x + 2 * y + 4 * z, -1000)
    return np.asarray(hu, dtype=np.int16)


def scan_labels() -> np.ndarray:
    """Return a liver lesion on slices 5 to 8 and a kidney lesion on slices 12 and 13."""
    labels = np.zeros(GEOMETRY.shape, dtype=np.uint8)
    labels[5:9, 10:20, 12:24] = 1
    labels[12:14, 22:28, 28:34] = 2
    return labels


def write_scan(folder: Path, case_id: str = "patient-7") -> tuple[Path, Path]:
    """Write scan and mask below ``folder`` and return their paths."""
    scan = folder / "images" / f"{case_id}_0000.nii.gz"
    mask = folder / "masks" / f"{case_id}.nii.gz"
    write_ct(scan, scan_hu(), GEOMETRY)
    write_labels(mask, scan_labels(), GEOMETRY)
    return scan, mask


def measured_lesion() -> MeasuredLesion:
    """Return the liver lesion as infer-volume would measure it, its long axis on slice 6."""
    low, high = (point_mm(12, 10, 6), point_mm(23, 19, 6))
    return MeasuredLesion(
        lesion_id="liver_lesion-1",
        tracking_uid="2.25.1",
        class_name="liver_lesion",
        label=1,
        voxels=480,
        volume_ml=480 * 0.02,
        long_axis_mm=float(np.hypot(22.0, 22.5)),
        long_axis_ends_mm=(low, high),
        short_axis_mm=20.0,
        short_axis_ends_mm=(point_mm(22, 11, 6), point_mm(14, 18, 6)),
        centroid_mm=point_mm(17.5, 14.5, 6.5),
        first_slice=5,
        last_slice=8,
        key_slice=6,
        mean_hu=41.0,
        sd_hu=9.0,
        mean_probability=0.91,
        presence=0.97,
        fold_agreement=None,
    )


def point_mm(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Return where a voxel lies."""
    a, b, c = GEOMETRY.position_mm(np.array([x, y, z])).tolist()
    return (a, b, c)
