"""Coded concepts of classes for DICOM objects: what a segment is, where it lies, its colour.

Classes without a SNOMED CT code in the taxonomy get one of a private scheme (PS3.16 8.2): their
name. Categories are those of PS3.16 CID 7150.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from samcancer.taxonomy import ClassSpec

PRIVATE_SCHEME = "99SAMCANCER"
"""Designator of the coding scheme of classes that have no SNOMED CT code."""

LONG_STRING = 64
"""Characters in a code's meaning and in a segment's label (VR LO)."""

_GOLDEN_ANGLE_DEGREES = 137.5
"""Step of hue from class to class: neighbours differ, and no number of classes repeats one."""

_LIGHTNESS, _CHROMA = 65.0, 55.0
"""Of every class, in CIELab: visible on black and on grey."""

_XYZ_TO_LINEAR_RGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
"""sRGB from CIE XYZ under D50, the white of DICOM's CIELab values (PS3.3 C.10.7.1.1)."""

_D50 = (0.96422, 1.0, 0.82521)


@dataclass(frozen=True, kw_only=True)
class SegmentedClass:
    """A class of the written mask."""

    spec: ClassSpec
    label: int
    """Its value in the mask."""
    site: ClassSpec | None = None
    """The organ that a lesion lies in; None where it may lie anywhere."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made a result, as DICOM objects say it."""

    model_sha256: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Further settings that decide the result."""

    def all_parameters(self) -> dict[str, str]:
        """Return every parameter as text."""
        models = {f"model_sha256_{k}": sha for k, sha in enumerate(self.model_sha256, start=1)}
        return {**models, **self.parameters}


def class_code(spec: ClassSpec) -> Code:
    """Return the code of a class."""
    if spec.snomed is None:
        return Code(spec.name, PRIVATE_SCHEME, spec.title[:LONG_STRING])
    return Code(spec.snomed.code, "SCT", spec.snomed.meaning[:LONG_STRING])


def category_code(spec: ClassSpec) -> Code:
    """Return the category of a class: anatomy, or something abnormal in it."""
    organ, lesion = codes.SCT.AnatomicalStructure, codes.SCT.MorphologicallyAbnormalStructure
    code: Code = organ if spec.kind == "organ" else lesion
    return code


def lab_of(label: int) -> tuple[float, float, float]:
    """Return the CIELab colour of a label."""
    hue = math.radians(_GOLDEN_ANGLE_DEGREES * label)
    return _LIGHTNESS, _CHROMA * math.cos(hue), _CHROMA * math.sin(hue)


def rgb_of(label: int) -> tuple[int, int, int]:
    """Return the same colour in sRGB, 0 to 255; what a screen cannot show is cut off."""
    lightness, a, b = lab_of(label)
    y = (lightness + 16) / 116
    xyz = [white * _cubed(f) for white, f in zip(_D50, (y + a / 500, y, y - b / 200), strict=True)]
    linear = [sum(m * v for m, v in zip(row, xyz, strict=True)) for row in _XYZ_TO_LINEAR_RGB]
    red, green, blue = (round(255 * _companded(min(max(v, 0.0), 1.0))) for v in linear)
    return red, green, blue


def _cubed(f: float) -> float:
    """Undo the cube root of CIELab, which is linear near black."""
    return f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29)


def _companded(linear: float) -> float:
    """Apply the transfer curve of sRGB (IEC 61966-2-1)."""
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
