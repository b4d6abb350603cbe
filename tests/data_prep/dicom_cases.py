"""A CT series in DICOM, an RTSTRUCT and a SEG drawn on it, and the CSV table that pairs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "volume_io"))

from segmentation_fakes import FRAME_OF_REFERENCE, dataset_of, frames_of, save_segmentation
from series_fakes import COLUMNS, ROWS, SLICES, write_series
from test_rtstruct import rectangle, write_structures

from samcancer.geometry import Geometry
from samcancer.volume_io import read_ct

FRAME = FRAME_OF_REFERENCE

PATIENT_ID = "P-4711"


def write_ct(folder: Path, **changes: Any) -> Geometry:
    """Write the sound series and return its grid."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_series(
        folder, lambda z: {"FrameOfReferenceUID": FRAME, "PatientID": PATIENT_ID, **changes}
    )
    return read_ct(folder).geometry


def box_contours(geometry: Geometry, box: tuple[int, int, int, int], *slices: int) -> Any:
    """One contour per slice around voxels left..right, top..bottom (inclusive)."""
    return [rectangle(*box, z, geometry) for z in slices]


def box_mask(box: tuple[int, int, int, int], *slices: int) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros((SLICES, ROWS, COLUMNS), np.bool_)
    mask[list(slices), top : bottom + 1, left : right + 1] = True
    return mask


def write_rtstruct(path: Path, regions: dict[str, Any], **options: Any) -> Path:
    return write_structures(path, regions, frame=FRAME, **options)


def write_seg(
    path: Path,
    masks: dict[int, np.ndarray],
    segments: list[Any],
    geometry: Geometry,
    **changes: Any,
) -> Path:
    content = dataset_of(frames_of(masks, geometry), segments, geometry)
    for name, value in {"FrameOfReferenceUID": FRAME, **changes}.items():
        setattr(content, name, value)
    return save_segmentation(path, content)


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns)] + [",".join(row.get(c, "") for c in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path
