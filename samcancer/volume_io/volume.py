"""What reading a volume gives, and how a user asks for the doubtful cases.

Arrays are (slice, row, column) as stored in the file; positions follow samcancer.geometry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry

FileFormat = Literal["nifti", "metaimage", "nrrd", "dicom"]

AffineChoice = Literal["qform", "sform"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Decisions that reading never makes on its own."""

    affine: AffineChoice | None = None
    """Which NIfTI affine to believe where the two disagree; None refuses such a file."""
    nan_fill: float | None = None
    """Value in HU for NaN and infinite voxels; None refuses them."""
    nearest_rotation: bool = False
    """Read a sheared grid as the nearest unsheared one; masks keep the file's own affine."""
    series: str | None = None
    """SeriesInstanceUID to read of a DICOM folder; None refuses a folder with several CT series."""
    files: frozenset[Path] = field(default=frozenset(), repr=False)
    """DICOM files named one by one, resolved: others of their folders are left out."""
    seg_threshold: float | None = None
    """Share from which a pixel of a fractional DICOM segmentation is inside; None refuses it."""

    def __post_init__(self) -> None:
        """Refuse a fill value that is no HU and a share that is none."""
        limits = np.iinfo(np.int16)
        if self.nan_fill is not None and not limits.min <= self.nan_fill <= limits.max:
            raise InputError(
                f"--nan-fill must be from {limits.min} to {limits.max} HU, got {self.nan_fill!r}"
            )
        if self.seg_threshold is not None and not 0 < self.seg_threshold <= 1:
            raise InputError(
                f"--seg-threshold must be over 0 and at most 1, got {self.seg_threshold!r}"
            )


@dataclass(frozen=True)
class RawVolume:
    """A file's voxels and grid before they are taken as HU or as labels."""

    values: NDArray[Any]
    """(Z, Y, X), any real dtype, rescaled as the header says."""
    geometry: Geometry
    rescaled: bool
    """Whether the header had a slope or an intercept."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CtVolume:
    """A CT scan."""

    hu: NDArray[np.int16]
    """(Z, Y, X)."""
    geometry: Geometry
    path: Path
    source_sha256: str
    """Of the file, or of a series' files in slice order."""
    warnings: tuple[str, ...]
    file_format: FileFormat
    files: tuple[Path, ...] = ()
    """A DICOM series' files in slice order; empty for a scan that is a single file."""


@dataclass(frozen=True)
class LabelVolume:
    """A label map."""

    values: NDArray[Any]
    """(Z, Y, X) of an integer dtype."""
    geometry: Geometry
    path: Path
