"""Coded concepts of classes for DICOM objects: what a segment is, where it lies, its colour.

Classes without a SNOMED CT code in the taxonomy get one of a private scheme (PS3.16 8.2): their
name. Categories are those of PS3.16 CID 7150.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from highdicom.color import CIELabColor
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from samcancer.taxonomy import ClassSpec

PRIVATE_SCHEME = "99SAMCANCER"
"""Designator of the coding scheme of classes that have no SNOMED CT code."""

_SHORT_STRING = 16
"""Characters of the shortest kind of text that holds a serial number (VR SH)."""

LONG_STRING = 64
"""Characters in a code's meaning and in a segment's label (VR LO)."""

_GOLDEN_ANGLE_DEGREES = 137.5
"""Step of hue from class to class: neighbours differ, and no number of classes repeats one."""

_LIGHTNESS, _CHROMA = 65.0, 55.0
"""Of every class, in CIELab: visible on black and on grey."""


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

    @property
    def serial_number(self) -> str:
        """The first model's, as short as a DICOM attribute takes it."""
        return self.model_sha256[0][:_SHORT_STRING]

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


def colour_of(label: int) -> CIELabColor:
    """Return the colour of a label; its RGB value is for ``to_rgb(clip=True)``."""
    hue = math.radians(_GOLDEN_ANGLE_DEGREES * label)
    return CIELabColor(_LIGHTNESS, _CHROMA * math.cos(hue), _CHROMA * math.sin(hue))
