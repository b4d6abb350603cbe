"""What a result in DICOM has to say of the series that it was made from: UIDs, grid, patient.

Headers are read once more after the pixels, by the file list that reading the series gave. Only the
tags listed here are taken; those that name the patient only where that is asked for, and they go
into DICOM objects and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io.dicom_files import DAMAGE, RE_COPY
from samcancer.volume_io.quiet import quiet_dicom_libraries

REQUIRED_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient",
)  # fmt: skip
"""Without these no object can refer to the images."""

PATIENT_TAGS = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "PatientSize", "PatientWeight", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "StudyDescription", "ReferringPhysicianName",
)  # fmt: skip
"""By which a PACS files an object under its patient and study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2)."""

EMPTY_TAGS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Those of them that every object has, empty where nothing is said (type 2)."""

_UID = re.compile(r"[0-9.]{1,64}")
"""Characters of a UID (PS3.5 section 9.1); leading zeros, which it forbids, are common."""

_SAME_IN_ALL = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")

_MEND = "leave the DICOM results out with --no-dicom"

_LONG_STRING = 64
"""Characters in a value of VR LO."""

UNICODE = "ISO_IR 192"
"""Character set of every object: UTF-8."""


@dataclass(frozen=True, kw_only=True)
class DicomSource:
    """A series as the objects made from it refer to it."""

    headers: tuple[Dataset, ...]
    """One per slice, in slice order: REQUIRED_TAGS, thickness, and nothing of the patient."""
    geometry: Geometry
    patient: Mapping[str, str] = field(default_factory=dict)
    """Tag -> what results say of the patient and the study; all else is empty."""

    def for_case(self, case_id: str) -> DicomSource:
        """Return the same series with the case id for a patient id, unless the patient is kept."""
        if self.patient:
            return self
        return replace(self, patient={"PatientID": case_id.replace("\\", "_")[:_LONG_STRING]})

    @property
    def study_uid(self) -> str:
        """UID of the study, which the results join."""
        return str(self.headers[0].StudyInstanceUID)

    @property
    def series_uid(self) -> str:
        """UID of the series of images."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def frame_uid(self) -> str:
        """UID of the frame of reference."""
        return str(self.headers[0].FrameOfReferenceUID)


def read_dicom_source(
    files: Sequence[Path], *, geometry: Geometry, keep_patient: bool = False
) -> DicomSource:
    """Read the headers of a series.

    Args:
        files: In slice order, as ``CtVolume.files`` has them.
        geometry: Of the series.
        keep_patient: Take over PATIENT_TAGS; otherwise they are empty.

    Raises:
        InputError: When a header lacks what an object must refer to, or slices differ in it.
    """
    named = PATIENT_TAGS if keep_patient else ()
    headers = [_read_header(path, named) for path in files]
    first = headers[0]
    for path, header in zip(files, headers, strict=True):
        differing = [name for name in _SAME_IN_ALL if header[name].value != first[name].value]
        if differing:
            raise InputError(
                f"has another {differing[0]} than {files[0].name}", path=path, mend=_MEND
            )
    patient = {name: _text(first[name].value) for name in named if name in first}
    for header in headers:
        _complete(header, step_mm=geometry.spacing_mm[2])
    return DicomSource(headers=tuple(headers), geometry=geometry, patient=patient)


def _read_header(path: Path, named: Sequence[str]) -> Dataset:
    wanted = [*REQUIRED_TAGS, "Modality", "SliceThickness", *named]
    header = Dataset()
    try:
        with quiet_dicom_libraries():
            found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
            found.decode()  # text in Unicode, whatever the file's own character set
            for name in wanted:
                if name in found:
                    header[name] = found[name]
    except DAMAGE as error:
        raise InputError(
            f"its DICOM header is damaged ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None
    missing = [name for name in REQUIRED_TAGS if header.get(name) in (None, "", [])]
    if missing:
        raise InputError(f"has no {missing[0]}", path=path, mend=_MEND)
    for name in REQUIRED_TAGS:
        if name.endswith("UID") and _UID.fullmatch(_text(header[name].value)) is None:
            raise InputError(f"has a {name} that is no UID", path=path, mend=_MEND)
    if UID(header.SOPClassUID).type != "SOP Class":
        raise InputError("has a SOPClassUID that is not standard", path=path, mend=_MEND)
    return header


def _text(value: Any) -> str:
    """Return a value as it stands in a file, several of them with backslashes between."""
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def _complete(header: Dataset, *, step_mm: float) -> None:
    """Take the patient out, and say how thick and how far apart the slices are."""
    for name in PATIENT_TAGS:
        if name in header:
            del header[name]
    for name in EMPTY_TAGS:
        setattr(header, name, "")
    header.SpecificCharacterSet = UNICODE
    header.SpacingBetweenSlices = step_mm
    try:
        thick_mm = float(header.SliceThickness)
    except (AttributeError, TypeError, ValueError):
        thick_mm = 0.0
    if not 0 < thick_mm < math.inf:
        header.pop("SliceThickness", None)
        header.SliceThickness = step_mm
