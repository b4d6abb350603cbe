"""A sound CT series in DICOM, made element by element, and what identifies a patient in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
SERIES = "1.2.826.0.1.3680043.8.498.1"
OTHER_SERIES = "1.2.826.0.1.3680043.8.498.2"
SLICES, ROWS, COLUMNS = 6, 7, 9
STEP_MM = 2.5
PIXEL_MM = (0.8, 0.6)
FIRST_MM = np.array([-31.0, 17.5, 203.0])


def hu_of(slices: int = SLICES) -> np.ndarray:
    return np.random.default_rng(7).integers(-1000, 1500, size=(slices, ROWS, COLUMNS))


def ct_slice(z: int, **changes: Any) -> Dataset:
    """Slice z of the sound series with elements replaced, or left out for None."""
    content = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": CT_CLASS,
        "SOPInstanceUID": f"{SERIES}.{z + 1}",
        "SeriesInstanceUID": SERIES,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": z + 1,
        "Rows": ROWS,
        "Columns": COLUMNS,
        "PixelSpacing": list(PIXEL_MM),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [*FIRST_MM[:2], FIRST_MM[2] + STEP_MM * z],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelData": (hu_of()[z] + 1024).astype("<u2").tobytes(),
        **changes,
    }
    for name, value in values.items():
        if value is not None:
            setattr(content, name, value)
    return content


def save(path: Path, content: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = content.SOPClassUID
    meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    file = FileDataset(str(path), content, file_meta=meta, preamble=bytes(128))
    file.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, each: Callable[[int], dict[str, Any]] = lambda z: {}) -> Path:
    """Write all slices, in names that sort against their positions."""
    folder.mkdir(exist_ok=True)
    for z in range(SLICES):
        save(slice_path(folder, z), ct_slice(z, **each(z)))
    return folder


def slice_path(folder: Path, z: int) -> Path:
    return folder / f"image_{SLICES - z}.dcm"


def one(z: int, **changes: Any) -> Callable[[int], dict[str, Any]]:
    """Changes for slice z alone."""
    return lambda index: changes if index == z else {}


def position(x: float, y: float, z: float) -> list[float]:
    return [float(v) for v in np.add(FIRST_MM, (x, y, z))]


CANARY = "CANARY"

IDENTIFYING_TAGS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientAddress",
    "PatientComments", "PatientBirthName", "PatientMotherBirthName", "PatientTelephoneNumbers",
    "OtherPatientNames", "EthnicGroup", "Occupation", "AdditionalPatientHistory",
    "MedicalRecordLocator", "InstitutionName", "InstitutionAddress", "StationName",
    "InstitutionalDepartmentName",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy", "RequestingPhysician", "AccessionNumber", "StudyID",
    "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "DeviceSerialNumber",
    "RequestedProcedureDescription", "AcquisitionComments",
)  # fmt: skip

DATES = {"DA": "19700101", "AS": "054Y", "CS": CANARY}


def with_canaries(content: Dataset) -> Dataset:
    for name in IDENTIFYING_TAGS:
        setattr(content, name, DATES.get(dictionary_VR(name), f"{CANARY} {name}"[:16]))
    return content
