"""Write label maps and probabilities so that a file is whole and right, or absent.

Every file is written under a temporary name, read back, compared voxel for voxel and corner for
corner, and only then renamed (SimpleITK reports no error when a disk fills up).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.files import atomic_path
from samcancer.geometry import SAME_GRID_TOLERANCE_MM, Geometry
from samcancer.volume_io.formats import VOLUME_SUFFIXES, require_volume_suffix, volume_suffix
from samcancer.volume_io.reading import read_volume
from samcancer.volume_io.volume import ReadOptions

_HEADER_ALLOWANCE_BYTES = 1 << 16
"""Room for headers in the free-space check; voxels are counted uncompressed."""


def write_labels(
    path: Path, values: NDArray[np.uint8], geometry: Geometry, *, reference: Path | None = None
) -> None:
    """Write a label map atomically, in the format of the path's ending.

    Args:
        path: .nii, .nii.gz, .mha or .nrrd.
        values: (Z, Y, X) uint8.
        geometry: Its grid.
        reference: The scan that the labels belong to; when both files are NIfTI its qform and sform
            are kept bit for bit.

    Raises:
        InputError: When the folder cannot be written, the disk is full, or reading back differs.
    """
    if values.dtype != np.uint8:
        msg = f"labels must be uint8, got {values.dtype}"
        raise TypeError(msg)
    _write(path, values, geometry, reference)


def write_ct(path: Path, hu: NDArray[np.int16], geometry: Geometry) -> None:
    """Write a scan (Z, Y, X) of int16 HU; see :func:`write_labels`."""
    if hu.dtype != np.int16:
        msg = f"a scan must be int16, got {hu.dtype}"
        raise TypeError(msg)
    _write(path, hu, geometry, None)


def write_probabilities(path: Path, values: NDArray[np.float32], geometry: Geometry) -> None:
    """Write probabilities (Z, Y, X) as float32; see :func:`write_labels`."""
    _write(path, values.astype(np.float32, copy=False), geometry, None)


def _write(path: Path, values: NDArray[Any], geometry: Geometry, reference: Path | None) -> None:
    if values.shape != geometry.shape:
        msg = f"values of shape {values.shape} on a grid of shape {geometry.shape}"
        raise ValueError(msg)
    nifti = VOLUME_SUFFIXES[require_volume_suffix(path)] == "nifti"
    try:
        with atomic_path(
            path,
            expected_bytes=values.nbytes + _HEADER_ALLOWANCE_BYTES,
            verify=lambda written: _require_equal(written, values, geometry),
        ) as temporary:
            if nifti:
                from samcancer.volume_io.nifti import write_nifti

                like = reference if reference is not None and _is_nifti(reference) else None
                write_nifti(temporary, values, geometry, reference=like)
            else:
                from samcancer.volume_io.itk_formats import write_itk

                write_itk(temporary, values, geometry)
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})", path=path, mend="try another disk"
        ) from None


def _is_nifti(path: Path) -> bool:
    return path.is_file() and VOLUME_SUFFIXES.get(volume_suffix(path) or "") == "nifti"


def _require_equal(written: Path, values: NDArray[Any], geometry: Geometry) -> None:
    """Raise OSError when the file holds other voxels, ValueError when it lies elsewhere."""
    try:
        found = read_volume(written, ReadOptions(affine=None, nearest_rotation=True))
    except InputError as error:
        if "qform and sform" not in error.fact:
            raise OSError(f"reading back failed: {error.fact}") from None
        found = read_volume(written, ReadOptions(affine="qform", nearest_rotation=True))
        geometry = found.geometry
    apart_mm = np.abs(found.geometry.corners_mm() - geometry.corners_mm()).max()
    if not apart_mm <= SAME_GRID_TOLERANCE_MM:
        raise ValueError(f"the grid lies {apart_mm:.3g} mm from that of the reference scan")
    if not np.array_equal(found.values, values):
        raise OSError("reading back gave other voxels")
