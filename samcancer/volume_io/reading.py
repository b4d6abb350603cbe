"""Read a scan as HU or a label map as integers, whatever the format, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.volume_io.formats import (
    VOLUME_SUFFIXES,
    is_dicom_file,
    require_content_matches_name,
    volume_suffix,
)
from samcancer.volume_io.volume import CtVolume, LabelVolume, RawVolume, ReadOptions

_DEFAULT_OPTIONS = ReadOptions()

_INT16 = np.iinfo(np.int16)

_WATER_STORED_HU = (900, 1200)
"""Where soft tissue lies in a scan stored with an offset of 1024 instead of in HU."""

_LISTED = 5
"""Values quoted in a message before it says how many more there are."""

_WATER_STORED_SHARE = 0.05
"""Share of voxels in that range from which a scan without negative values is taken as not HU."""


def read_ct(
    path: Path, options: ReadOptions = _DEFAULT_OPTIONS, *, series: str | None = None
) -> CtVolume:
    """Read a CT scan in HU.

    Args:
        path: A .nii, .nii.gz, .mha or .nrrd file, or a folder with a DICOM series.
        options: Decisions on doubtful headers and voxels.
        series: SeriesInstanceUID, where a folder holds several; None takes that of the options.

    Raises:
        InputError: When the file is missing, damaged, not one 3-D volume, not in HU, or its grid is
            doubtful.
    """
    if path.is_dir():
        from samcancer.volume_io.dicom import read_dicom_ct

        ct = read_dicom_ct(path, series=series or options.series, files=options.files)
        _require_hu(ct.hu, path)
        return ct
    if volume_suffix(path) is None and is_dicom_file(path):
        raise InputError(
            "is one file of a DICOM series", path=path, mend="name the folder of the series"
        )
    raw = read_volume(path, options)
    return CtVolume(
        hu_from(raw, path, options),
        raw.geometry,
        path,
        sha256_of(path),
        raw.warnings,
        VOLUME_SUFFIXES[volume_suffix(path) or ""],
    )


def read_labels(path: Path, options: ReadOptions = _DEFAULT_OPTIONS) -> LabelVolume:
    """Read a label map; floating-point files are accepted when every value is integral.

    Raises:
        InputError: As :func:`read_ct`, or when values are not whole numbers from 0.
    """
    raw = read_volume(path, options)
    values = raw.values
    if values.dtype.kind == "f":
        wrong = ~(np.isfinite(values) & (values == np.rint(values)))
        if wrong.any():
            raise InputError(
                f"{int(wrong.sum())} voxels are not whole numbers: {_counted(values[wrong])}",
                path=path,
                mend="save the label map without interpolation",
            )
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        wrong = (values < 0) | (values > np.iinfo(np.uint16).max)
        raise InputError(
            f"{int(wrong.sum())} voxels are no labels: {_counted(values[wrong])}",
            path=path,
            mend="use labels from 0 to 255",
        )
    return LabelVolume(values.astype(np.uint8 if highest < 256 else np.uint16), raw.geometry, path)


def read_volume(path: Path, options: ReadOptions = _DEFAULT_OPTIONS) -> RawVolume:
    """Read voxels and grid of a volume file without taking them as HU or as labels."""
    require_content_matches_name(path)
    return _reader_of(path)(path, options)


def hu_from(raw: RawVolume, path: Path, options: ReadOptions) -> NDArray[np.int16]:
    """Check that voxels are HU and return them as int16.

    Raises:
        InputError: When values are NaN, infinite, out of the range of int16, or stored with an
            offset.
    """
    values = raw.values
    if values.dtype.kind == "f":
        values = np.rint(_fill_missing(values, path, options.nan_fill))
    if values.dtype.kind not in "fiu":
        raise InputError(
            f"its voxels are of type {values.dtype}", path=path, mend="save it as int16"
        )
    if values.min() < _INT16.min or values.max() > _INT16.max:
        beyond = (values < _INT16.min) | (values > _INT16.max)
        raise InputError(
            f"{int(beyond.sum())} voxels lie outside the int16 range, for example "
            f"{values[beyond][0]:g}",
            path=path,
            mend="check the rescale slope and intercept",
        )
    hu = np.ascontiguousarray(values.astype(np.int16, copy=False))
    _require_hu(hu, path)
    return hu


def _reader_of(path: Path) -> Callable[[Path, ReadOptions], RawVolume]:
    if VOLUME_SUFFIXES[volume_suffix(path) or ""] == "nifti":
        from samcancer.volume_io.nifti import read_nifti

        return read_nifti
    from samcancer.volume_io.itk_formats import read_itk

    return read_itk


def _fill_missing(values: NDArray[Any], path: Path, nan_fill: float | None) -> NDArray[Any]:
    missing = ~np.isfinite(values)
    count = int(missing.sum())
    if count == 0:
        return values
    if nan_fill is None:
        raise InputError(
            f"{count} voxels are NaN or infinite", path=path, mend="choose a value with --nan-fill"
        )
    return np.where(missing, nan_fill, values)


def _counted(values: NDArray[Any]) -> str:
    """The first distinct values and how often each occurs."""
    found, counts = np.unique(values, return_counts=True)
    listed = ", ".join(f"{v:g} ({n} x)" for v, n in zip(found[:_LISTED], counts, strict=False))
    return listed + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")


def _require_hu(values: NDArray[np.int16], path: Path) -> None:
    if values.min() < 0:
        return
    lower, upper = _WATER_STORED_HU
    share = float(((values >= lower) & (values <= upper)).mean())
    if share >= _WATER_STORED_SHARE:
        raise InputError(
            f"not in HU: no value is negative and {share:.0%} lie from {lower} to {upper}, where "
            "water would be with an offset of 1024",
            path=path,
            mend="apply the rescale intercept first",
        )
