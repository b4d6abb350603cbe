"""What about a scan makes its mask less to be trusted: spacing, orientation, field of view, HU.

Each check looks at voxels and grid alone, and says in one sentence what was seen, with the figure.
Arrays are (slice, row, column) in canonical orientation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from samcancer.report.overlay import BODY_HU
from samcancer.report.scan.case import ScanCase, unnamed_class

Severity = Literal["warning", "note"]

THICK_SLICE_MM = 5.0
"""RECIST 1.1 measures lesions on slices of at most this thickness."""
COARSE_PIXEL_MM = 1.5
"""In-plane spacing of a field of view of 770 mm at 512 pixels: wider than any scanner's."""
ANISOTROPY = 5.0
"""Slice spacing over in-plane spacing from which outlines look stepped in side views."""
FEW_SLICES = 16
"""Fewer show too little of the body's length for the network's neighbourhood to help."""
OBLIQUE_DEGREES = 1.0
"""Tilt against the patient's axes from which it is worth saying."""
CUT_BODY_SHARE = 0.05
"""Share of a slice's border pixels that are body from which the body counts as cut."""
CUT_SLICES_SHARE = 0.25
"""Share of cut slices from which the field of view is said to be too narrow."""
AIR_HU = -900
"""Air around and in the body lies below."""
PADDING_HU = -1025
"""No tissue and no air is less dense, noise apart: such a value is filling if it is frequent."""
PADDING_SHARE = 0.001
"""Share of voxels with the lowest value from which it is no noise."""
METAL_HU = 3000
METAL_VOXELS = 50
"""Fewer are noise or a calcification."""
CLIPPED_SHARE = 0.002
"""Share of voxels with the largest value of the scan from which it counts as clipped."""
BONE_HU = 300
"""A scan of a body has denser voxels."""
SOFT_TISSUE_HU = (-120, 120)
"""Where the median of the body lies: fat is -100, muscle and organs are up to 80."""

_BORDER = 1
"""Pixels of the border of a slice that are looked at."""
_SAMPLED = 4
"""Every so manyth row and column counts for the median of the body, which keeps memory small."""

_MOST_LISTED = 4
"""Names in one sentence before it says how many more there are."""


@dataclass(frozen=True)
class Finding:
    """One sentence about the scan."""

    text: str
    severity: Severity


def check_scan(case: ScanCase) -> tuple[Finding, ...]:
    """Return what is odd about a scan: first the warnings, then the notes."""
    found = [*_spacing(case), *_orientation(case), *_field_of_view(case), *_values(case.hu)]
    found += _classes(case)
    return tuple(sorted(found, key=lambda finding: finding.severity != "warning"))


def _spacing(case: ScanCase) -> Iterator[Finding]:
    column_mm, row_mm, slice_mm = case.geometry.spacing_mm
    in_plane_mm = max(column_mm, row_mm)
    if slice_mm > THICK_SLICE_MM:
        yield Finding(
            f"The slices are {slice_mm:.3g} mm apart, over {THICK_SLICE_MM:g} mm: small lesions "
            "may be missed and volumes are rough.",
            "warning",
        )
    if in_plane_mm > COARSE_PIXEL_MM:
        yield Finding(
            f"The pixels are {in_plane_mm:.3g} mm wide, over {COARSE_PIXEL_MM:g} mm: small lesions "
            "may be missed.",
            "warning",
        )
    if slice_mm / min(column_mm, row_mm) > ANISOTROPY:
        yield Finding(
            f"A voxel is {slice_mm / min(column_mm, row_mm):.1f} times as high as it is wide.",
            "note",
        )


def _orientation(case: ScanCase) -> Iterator[Finding]:
    if case.turn.axes != (0, 1, 2) or any(case.turn.flips):
        yield Finding(
            "The file stores the scan in another orientation; it was turned for this page and for "
            "the network. The mask has the file's own orientation.",
            "note",
        )
    if case.oblique_degrees > OBLIQUE_DEGREES:
        yield Finding(
            f"The scan is tilted by {case.oblique_degrees:.1f} degrees against the patient's axes; "
            "it is shown along its own axes.",
            "note",
        )


def _field_of_view(case: ScanCase) -> Iterator[Finding]:
    slices = len(case.hu)
    if slices < FEW_SLICES:
        height_mm = slices * case.geometry.slice_spacing_mm
        yield Finding(f"The scan has {slices} slices only ({height_mm:.0f} mm).", "warning")
    cut = np.array([_border_share(plane) for plane in case.hu]) > CUT_BODY_SHARE
    if cut.mean() > CUT_SLICES_SHARE:
        yield Finding(
            f"The body reaches the border of the picture on {int(cut.sum())} of {slices} slices: "
            "the field of view is narrow or the scan is cropped, and what lies outside is not "
            "searched.",
            "warning",
        )
    at_edge = _labels_at_border(case.labels)
    titles = [s.title for s in case.classes if s.kind == "lesion" and s.label in at_edge]
    if titles:
        yield Finding(
            f"A lesion reaches the edge of the scan ({_listed(titles)}): its size is a lower "
            "bound.",
            "warning",
        )


def _classes(case: ScanCase) -> Iterator[Finding]:
    unnamed = [str(s.label) for s in case.classes if s.name == unnamed_class(s.label)]
    if unnamed:
        yield Finding(
            f"The mask holds values without a class ({_listed(unnamed)}); they are shown as "
            "lesions.",
            "note",
        )


def _values(hu: npt.NDArray[np.int16]) -> Iterator[Finding]:
    lowest, highest = int(hu.min()), int(hu.max())
    if lowest > AIR_HU:
        yield Finding(
            f"No voxel is as thin as air (lowest {lowest} HU): the scan is cropped, clipped or not "
            "in HU.",
            "warning",
        )
    padding = float(np.mean(hu == lowest))
    if lowest < PADDING_HU and padding > PADDING_SHARE:
        yield Finding(
            f"{padding:.1%} of the voxels are filling of {lowest} HU, as outside a scanner's round "
            "field of view.",
            "note",
        )
    metal = int(np.count_nonzero(hu > METAL_HU))
    if metal >= METAL_VOXELS:
        yield Finding(
            f"{metal} voxels are denser than {METAL_HU} HU: metal, whose streaks may hide or feign "
            "lesions.",
            "warning",
        )
    clipped = float(np.mean(hu == highest))
    if highest < BONE_HU:
        yield Finding(
            f"No voxel is denser than {highest} HU: bone is missing, clipped or not in HU.",
            "warning",
        )
    elif highest < METAL_HU and clipped > CLIPPED_SHARE:
        yield Finding(
            f"{clipped:.1%} of the voxels have the largest value, {highest} HU: denser ones were "
            "clipped.",
            "warning",
        )
    sample = hu[:, ::_SAMPLED, ::_SAMPLED]
    body = sample[sample > BODY_HU]
    if body.size:
        middle = float(np.median(body))
        if not SOFT_TISSUE_HU[0] <= middle <= SOFT_TISSUE_HU[1]:
            yield Finding(
                f"Half of the body lies above {middle:.0f} HU, where soft tissue is from "
                f"{SOFT_TISSUE_HU[0]} to {SOFT_TISSUE_HU[1]}: the values may be shifted.",
                "warning",
            )


def _border_share(plane: npt.NDArray[np.int16]) -> float:
    edges = (plane[:_BORDER], plane[-_BORDER:], plane[:, :_BORDER], plane[:, -_BORDER:])
    border = np.concatenate([edge.ravel() for edge in edges])
    return float(np.mean(border > BODY_HU))


def _labels_at_border(labels: npt.NDArray[np.uint8]) -> set[int]:
    """Return the values on the six faces of the volume."""
    faces = [labels.take(end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return set(np.unique(np.concatenate(faces)).tolist())


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_LISTED} more" if len(words) > _MOST_LISTED else ""
    return ", ".join(words[:_MOST_LISTED]) + more
