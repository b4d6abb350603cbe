"""Small raw data sets on disk: nnU-Net and MSD folders with NIfTI files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (5, 22, 18)
"""(slice, row, column)."""

AFFINE = np.diag([-0.9, -0.8, 3.0, 1.0])
"""To RAS: axes run to the left, to posterior and up, so that the array is canonical already."""


def ct(seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    return (rng.normal(30, 20, SHAPE) - 1000 * (np.arange(SHAPE[2]) < 4)).astype(np.int16)


def label(boxes: dict[int, tuple[slice, slice, slice]] | None = None) -> NDArray[np.uint8]:
    values = np.zeros(SHAPE, np.uint8)
    for value, box in (boxes or {1: (slice(1, 4), slice(5, 12), slice(6, 14))}).items():
        values[box] = value
    return values


def save(path: Path, array: NDArray[Any], affine: NDArray[Any] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)


def add_case(
    folder: Path,
    case_id: str,
    *,
    hu: NDArray[np.int16] | None = None,
    values: NDArray[np.uint8] | None = None,
    channel: str = "_0000",
) -> None:
    """Write one case; without values it has no label file."""
    save(folder / "imagesTr" / f"{case_id}{channel}.nii.gz", ct() if hu is None else hu)
    if values is not None:
        save(folder / "labelsTr" / f"{case_id}.nii.gz", values)


def write_nnunet(
    folder: Path, count: int = 3, *, description: dict[str, Any] | None = None, prefix: str = "case"
) -> Path:
    """Write a raw folder with ``count`` labelled cases, each with its own voxels."""
    for number in range(count):
        add_case(folder, f"{prefix}{number}", hu=ct(number), values=label())
    content = (
        {"labels": {"background": 0, "liver_lesion": 1}} if description is None else description
    )
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
