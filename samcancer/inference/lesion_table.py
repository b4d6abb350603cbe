"""The lesions of one scan, one by one: where they are, how large, how sure the network is.

A lesion is a connected component (26-connectivity) of a lesion class in the mask as it is written.
Positions are millimetres in the patient (LPS); slice numbers count from 0 in the order of the file.
Diameters follow RECIST 1.1 (Eisenhauer et al. 2009): the longest line in one axial slice of the
lesion, over all its slices, and the longest line perpendicular to it in that same slice.
"""

from __future__ import annotations

from dataclasses import dataclass

PointMm = tuple[float, float, float]
"""x, y, z in millimetres, LPS."""


@dataclass(frozen=True, kw_only=True)
class MeasuredLesion:
    """One lesion."""

    lesion_id: str
    """Class and number, such as ``liver_lesion-2``; numbered from the head to the feet."""
    tracking_uid: str
    """DICOM UID made of the scan's content, the class and the place; the same in every run."""
    class_name: str
    label: int
    """Value of its class in the written mask."""
    voxels: int
    volume_ml: float
    long_axis_mm: float
    long_axis_ends_mm: tuple[PointMm, PointMm]
    short_axis_mm: float
    """Longest line perpendicular to the long axis in the same slice."""
    short_axis_ends_mm: tuple[PointMm, PointMm]
    centroid_mm: PointMm
    first_slice: int
    last_slice: int
    key_slice: int
    """The slice of the long axis, in the order of the file."""
    mean_hu: float
    sd_hu: float
    """Population standard deviation."""
    mean_probability: float
    presence: float
    """Largest presence probability of the class in the lesion's slices."""
    fold_agreement: float | None
    """Share of the ensemble's members that mark a voxel of the lesion, averaged over its voxels.

    None where one network alone ran.
    """
