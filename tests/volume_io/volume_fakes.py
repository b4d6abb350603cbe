"""Synthetic scans, and files made from them by SimpleITK or byte by byte, never by samcancer."""

from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its customary name

ORIENTATIONS = [
    np.eye(3)[:, list(axes)] * signs
    for axes in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]
"""The 48 axis-aligned direction matrices, half of them left-handed."""

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")

SPACING_MM = (0.6, 0.8, 5.0)

ORIGIN_MM = (-31.0, 17.5, 203.0)

_HEADER_BYTES = 348

_FIRST_VOXEL = 352


def phantom_hu(shape: tuple[int, int, int] = (4, 7, 9), seed: int = 5) -> np.ndarray:
    """Air with a body that no turn or flip maps onto itself, and noise that packs badly."""
    random = np.random.default_rng(seed)
    hu = random.integers(-1010, -980, size=shape).astype(np.int16)
    z, rows, columns = (max(1, n // 2) for n in shape)
    hu[:z, :rows, : max(1, columns - 1)] = random.integers(20, 80, (z, rows, max(1, columns - 1)))
    hu[0, 0, 0] = 1200
    return hu


def save_by_itk(
    path: Path,
    values: np.ndarray,
    *,
    direction: np.ndarray = ORIENTATIONS[0],
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    packed: bool = True,
) -> Path:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(ORIGIN_MM)
    image.SetDirection(tuple(float(v) for v in direction.ravel()))
    sitk.WriteImage(image, str(path), useCompression=packed)
    return path


def save_nifti_with(path: Path, values: np.ndarray, **fields: Any) -> Path:
    """A NIfTI file by SimpleITK with header fields replaced, some in part: quatern_b, pixdim=..."""
    plain = save_by_itk(path.with_name("source.nii"), values)
    data = bytearray(plain.read_bytes())
    plain.unlink()
    header = np.frombuffer(data, nibabel.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        if isinstance(value, dict):
            for index, item in value.items():
                header[name][0][index] = item
        else:
            header[name][0] = value
    path.write_bytes(gzip.compress(bytes(data)) if path.name.endswith(".gz") else bytes(data))
    return path


def nifti_header_of(path: Path) -> np.ndarray:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.endswith(".gz") else data
    return np.frombuffer(data[:_HEADER_BYTES], nibabel.nifti1.header_dtype)[0]


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The same file with one text in its header exchanged; fails when the text is not there."""
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path
