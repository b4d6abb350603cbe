from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_series import NOT_KEPT, PATIENT, SERIES_UID, write_ct_series

from samcancer.errors import InputError
from samcancer.volume_io import read_ct
from samcancer.volume_io.dicom_source import DicomSource, read_dicom_source


def source_of(folder: Path, *, keep_patient: bool = False) -> DicomSource:
    ct = read_ct(folder)
    return read_dicom_source(ct.files, geometry=ct.geometry, keep_patient=keep_patient)


def write(folder: Path, **changes: object) -> Path:
    return write_ct_series(folder, np.full((3, 4, 5), -500), **changes)


def test_headers_come_in_slice_order_and_name_the_series(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "ct", direction=np.diag([1.0, 1.0, -1.0])))
    heights = [header.ImagePositionPatient[2] for header in source.headers]
    assert heights == sorted(heights) == [198.0, 200.5, 203.0]
    assert [str(h.SOPInstanceUID) for h in source.headers] == [
        f"{SERIES_UID}.{k}" for k in (3, 2, 1)
    ]


def test_nothing_is_taken_of_the_patient(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "ct")).for_case("case 7")
    assert source.patient == {"PatientID": "case 7"}
    for header in source.headers:
        assert "CANARY" not in str(header)
        assert header.PatientName == header.PatientBirthDate == header.StudyDate == ""


def test_patient_and_study_are_kept_when_asked_for_and_nothing_else(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "ct"), keep_patient=True).for_case("case 7")
    assert source.patient == {k: v for k, v in PATIENT.items() if k not in NOT_KEPT}
    assert all("CANARY" not in str(header) for header in source.headers)


def test_several_values_stay_several(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", ReferringPhysicianName=["One^A", "Two^B"], PatientAge=None)
    patient = source_of(folder, keep_patient=True).patient
    assert patient["ReferringPhysicianName"] == "One^A\\Two^B"
    assert "PatientAge" not in patient


def test_a_case_id_that_dicom_cannot_hold_is_cut(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "ct"))
    assert source.for_case("a\\b" + 80 * "c").patient == {"PatientID": "a_b" + 61 * "c"}


@pytest.mark.parametrize("thickness", [None, "", 0, -1])
def test_a_series_without_slice_thickness_has_that_of_its_spacing(
    thickness: object, tmp_path: Path
) -> None:
    header = source_of(write(tmp_path / "ct", SliceThickness=thickness)).headers[0]
    assert header.SliceThickness == header.SpacingBetweenSlices == 2.5


@pytest.mark.parametrize("name", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_a_series_that_cannot_be_referred_to_is_refused(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", **{name: ""})
    with pytest.raises(InputError, match=rf"image_003.dcm: has no {name}. Leave .* --no-dicom"):
        source_of(folder)


def test_a_slice_thickness_that_is_no_number_is_that_of_the_spacing(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", SliceThickness="2.50")
    for path in folder.iterdir():
        data = path.read_bytes()
        assert data.count(b"2.50") == 1
        path.write_bytes(data.replace(b"2.50", b"thin"))
    assert source_of(folder).headers[0].SliceThickness == 2.5


def test_images_of_a_private_class_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", SOPClassUID="1.2.3.4.5")
    with pytest.raises(InputError, match=r"has a SOPClassUID that is not standard. .*--no-dicom"):
        source_of(folder)


def test_slices_of_two_studies_are_refused_without_quoting_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    other = pydicom.dcmread(folder / "image_001.dcm")
    other.StudyInstanceUID = "1.2.3.99"
    other.save_as(folder / "image_001.dcm")
    with pytest.raises(InputError, match=r"image_001.dcm: has another StudyInstanceUID") as caught:
        source_of(folder)
    assert "1.2.3.99" not in str(caught.value)
