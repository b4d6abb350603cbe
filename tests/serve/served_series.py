"""A CT series in DICOM, written by pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def save_series(folder: Path, hu: np.ndarray, *, name: str = "file-{:05d}") -> list[Path]:
    """A DICOM series whose files are named in another order than their slices lie."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=["series"])
    paths = []
    for z, plane in enumerate(hu):
        content = Dataset()
        content.file_meta = FileMetaDataset()
        content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content.file_meta.MediaStorageSOPClassUID = CTImageStorage
        content.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(z)])
        content.SOPClassUID = CTImageStorage
        content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID
        content.SeriesInstanceUID = series
        content.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        content.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        content.StudyDate = content.StudyTime = content.AccessionNumber = content.StudyID = ""
        content.PatientID = content.PatientBirthDate = content.PatientSex = ""
        content.InstanceNumber, content.SeriesNumber = z + 1, 1
        content.SliceThickness, content.KVP = 5.0, 120
        content.Modality = "CT"
        content.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        content.PatientName = "CANARY^NAME"
        content.Rows, content.Columns = plane.shape
        content.PixelSpacing = [0.8, 0.6]
        content.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        content.ImagePositionPatient = [0, 0, 5.0 * z]
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated = content.BitsStored = 16
        content.HighBit, content.PixelRepresentation = 15, 0
        content.RescaleSlope, content.RescaleIntercept = 1, -1024
        content.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        path = folder / name.format(len(hu) - z)
        pydicom.dcmwrite(path, content, enforce_file_format=True)
        paths.append(path)
    return sorted(paths)
