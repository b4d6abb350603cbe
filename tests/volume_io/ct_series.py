"""CT series in DICOM as a scanner sends them, in any orientation, with canaries for a patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

STUDY_UID, SERIES_UID, FRAME_UID = (f"1.2.826.0.1.3680043.8.498.{k}" for k in (71, 72, 73))

SPACING_MM = (0.6, 0.8, 2.5)
"""Along a row's pixels, a column's pixels, and the slices."""

ORIGIN_MM = (-31.0, 17.5, 203.0)

PATIENT = {
    "PatientName": "CANARY^Zoë",
    "PatientID": "CANARY-4711",
    "PatientBirthDate": "19610207",
    "PatientSex": "F",
    "PatientAge": "060Y",
    "StudyDate": "20210305",
    "StudyTime": "101112",
    "StudyID": "CANARYST",
    "AccessionNumber": "CANARYACC",
    "StudyDescription": "CANARY abdomen",
    "ReferringPhysicianName": "CANARY^Doctor",
    "InstitutionName": "CANARY hospital",
    "Manufacturer": "CANARY scanner",
    "StationName": "CANARYSTATION",
    "OperatorsName": "CANARY^Operator",
    "SeriesDescription": "CANARY series",
    "PatientComments": "CANARY comment",
    "OtherPatientNames": "CANARY^Other",
}
"""What a header says of the patient and of those around."""

NOT_KEPT = (
    "InstitutionName", "Manufacturer", "StationName", "OperatorsName", "SeriesDescription",
    "PatientComments", "OtherPatientNames",
)  # fmt: skip
"""Of these, what no result takes over even where the patient is kept."""

TURNED = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""A rotation about no axis of the patient."""


def write_ct_series(
    folder: Path,
    hu: np.ndarray,
    *,
    direction: np.ndarray | None = None,
    file_name: str = "image_{:03d}.dcm",
    **changes: Any,
) -> Path:
    """Write (slice, row, column) HU as one file per slice.

    Args:
        folder: Made if needed.
        hu: Slice k is instance k + 1 and lies k steps along the third column of ``direction``.
        direction: (3, 3), columns along rows' pixels, columns' pixels and slices; either hand.
        file_name: With a place for a number, which falls where the instance's rises.
        changes: Elements to replace in every file, or to leave out for None.
    """
    direction = np.eye(3) if direction is None else direction
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(hu):
        position = np.asarray(ORIGIN_MM) + k * SPACING_MM[2] * direction[:, 2]
        values: dict[str, Any] = {
            "SpecificCharacterSet": "ISO_IR 100",
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": f"{SERIES_UID}.{k + 1}",
            "StudyInstanceUID": STUDY_UID,
            "SeriesInstanceUID": SERIES_UID,
            "FrameOfReferenceUID": FRAME_UID,
            "SeriesNumber": 3,
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "InstanceNumber": k + 1,
            "Rows": plane.shape[0],
            "Columns": plane.shape[1],
            "PixelSpacing": [SPACING_MM[1], SPACING_MM[0]],
            "SliceThickness": 3.0,
            "ImageOrientationPatient": [float(v) for v in direction[:, :2].T.ravel()],
            "ImagePositionPatient": [round(float(v), 6) for v in position],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "PixelData": (plane.astype(np.int32) + 1024).astype("<u2").tobytes(),
            **PATIENT,
            **changes,
        }
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{SERIES_UID}.{k + 1}"
        path = folder / file_name.format(len(hu) - k)
        content = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        for name, value in values.items():
            if value is not None:
                setattr(content, name, value)
        content.save_as(path, enforce_file_format=True)
    return folder


def places_mm(mask: np.ndarray, *, direction: np.ndarray | None = None) -> set[tuple[float, ...]]:
    """Return where voxels of a mask (slice, row, column), as written, are in the patient."""
    direction = np.eye(3) if direction is None else direction
    index_xyz = np.argwhere(mask)[:, ::-1] * SPACING_MM
    return rounded(np.asarray(ORIGIN_MM) + index_xyz @ direction.T)


def rounded(points_mm: np.ndarray) -> set[tuple[float, ...]]:
    """Return positions as a set, to a hundredth of a millimetre."""
    return {tuple(point) for point in np.round(points_mm, 2).tolist()}
