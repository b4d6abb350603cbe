from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from ct_series import NOT_KEPT, PATIENT, TURNED
from dicom_fakes import CASE, liver_and_tumors, segment, write_series
from inference_fakes import WriteScan, bright_box

from data_prep.rtstruct import rasterise, read_structure_set
from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.inference.dicom_results import DicomOptions
from samcancer.inference.finished import finished_report
from samcancer.inference.options import InferenceOptions
from samcancer.volume_io import read_ct, read_labels
from samcancer.volume_io.dicom_seg_reading import read_segmentation

ALL = DicomOptions(kinds=("seg", "sr", "rtstruct"))


def names_in(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir())


def test_a_series_gets_a_segmentation_and_a_report_beside_its_mask(tmp_path: Path) -> None:
    segment(write_series(tmp_path / "ct"), tmp_path / "out")
    assert names_in(tmp_path / "out") == [
        f"{CASE}.{end}" for end in ("json", "lesions.csv", "nii.gz", "seg.dcm", "sr.dcm")
    ]


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([1.0, 1.0, -1.0]), TURNED])
def test_mask_segmentation_and_contours_are_the_same_voxels(
    direction: np.ndarray, tmp_path: Path
) -> None:
    scan, out = write_series(tmp_path / "ct", direction=direction), tmp_path / "out"
    segment(scan, out, dicom=ALL)
    ct, mask = read_ct(scan), read_labels(out / f"{CASE}.nii.gz").values
    segments = read_segmentation(out / f"{CASE}.seg.dcm")
    structures = read_structure_set(out / f"{CASE}.rtstruct.dcm")
    assert set(np.unique(mask)) == {0, 1, 2}
    for label, name in ((1, "liver"), (2, "liver_tumor")):
        np.testing.assert_array_equal(segments.mask(label, ct.geometry), mask == label)
        contoured = rasterise(
            structures,
            name,
            geometry=ct.geometry,
            frame_of_reference_uid=segments.frame_of_reference_uid,
        )
        np.testing.assert_array_equal(contoured, mask == label)


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "ct")
    reports = [segment(scan, tmp_path / name, dicom=ALL) for name in "ab"]
    assert len(reports[0]["files"]) == 3
    assert reports[0]["files"] == reports[1]["files"]


def test_the_report_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = segment(write_series(tmp_path / "ct"), out, dicom=ALL, per_class=True)
    assert set(report["files"]) == {
        *(f"{CASE}.{kind}.dcm" for kind in ("seg", "sr", "rtstruct")),
        *(f"per_class/{CASE}/{name}.nii.gz" for name in ("liver", "liver_tumor", "kidney_tumor")),
    }
    for name, sha256 in report["files"].items():
        assert sha256 == sha256_of(out / name)


@pytest.mark.parametrize("kind", ["seg", "sr"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_case_with_a_missing_or_damaged_object_is_not_finished(
    kind: str, damaged: bool, tmp_path: Path
) -> None:
    scan, out = write_series(tmp_path / "ct"), tmp_path / "out"
    segment(scan, out)

    def finished() -> bool:
        options = InferenceOptions()
        ensemble = liver_and_tumors()
        return bool(finished_report(scan, out, case_id=CASE, ensemble=ensemble, options=options))

    assert finished()
    path = out / f"{CASE}.{kind}.dcm"
    if damaged:
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    assert not finished()


def test_asking_for_other_objects_is_another_request(tmp_path: Path) -> None:
    scan, out = write_series(tmp_path / "ct"), tmp_path / "out"
    segment(scan, out)
    for dicom in (DicomOptions(kinds=()), ALL, DicomOptions(keep_patient=True)):
        options = InferenceOptions(dicom=dicom)
        assert not finished_report(
            scan, out, case_id=CASE, ensemble=liver_and_tumors(), options=options
        )


def canaries() -> list[bytes]:
    return [value.encode() for name, value in PATIENT.items() if name not in ("PatientSex",)]


def test_no_result_names_the_patient(tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out, dicom=ALL)
    for path in out.iterdir():
        data = path.read_bytes()
        assert [canary for canary in canaries() if canary in data] == [], path.name
        if path.suffix == ".dcm":
            assert pydicom.dcmread(path).PatientID == CASE


def test_a_kept_patient_stands_in_the_dicom_objects_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    keep = DicomOptions(kinds=("seg", "sr", "rtstruct"), keep_patient=True)
    segment(write_series(tmp_path / "ct"), out, dicom=keep)
    for path in out.iterdir():
        if path.suffix != ".dcm":
            data = path.read_bytes()
            assert [canary for canary in canaries() if canary in data] == [], path.name
            continue
        content = pydicom.dcmread(path)
        for name, value in PATIENT.items():
            if name not in NOT_KEPT:
                assert content[name].value == value, (path.name, name)
            else:
                assert "CANARY" not in str(content.get(name, "")), (path.name, name)


ODD = {
    "PatientSex": "CANARYSEX",
    "PatientName": "CANARY=CANARY=CANARY=CANARY^",
    "StudyDate": "2021-03-05",
    "StudyTime": "CANARYTIME",
    "PatientBirthDate": "1961/02/07",
    "PatientAge": "CANARYAGE",
}
"""What stands in headers that no standard allows."""


def test_odd_patient_data_is_neither_refused_nor_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan = write_series(tmp_path / "ct", **ODD)
    keep = DicomOptions(kinds=("seg", "sr", "rtstruct"), keep_patient=True)
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        segment(scan, tmp_path / "out", dicom=keep)
    assert "CANARY" not in caplog.text
    assert len(recwarn) == 0
    for kind in keep.kinds:
        content = pydicom.dcmread(tmp_path / "out" / f"{CASE}.{kind}.dcm")
        assert content.PatientID == PATIENT["PatientID"]
        assert str(content.PatientName) == ODD["PatientName"]
        for name in ("StudyDate", "StudyTime", "PatientBirthDate", "PatientAge"):
            assert not content.get(name)
        if kind != "rtstruct":
            assert (content.ContentDate, content.ContentTime) == ("19000101", "000000")


def test_keeping_the_patient_makes_other_objects(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "ct")
    segment(scan, tmp_path / "a")
    segment(scan, tmp_path / "b", dicom=DicomOptions(keep_patient=True))
    uids = {
        pydicom.dcmread(tmp_path / name / f"{CASE}.seg.dcm").SOPInstanceUID for name in ("a", "b")
    }
    assert len(uids) == 2


def test_where_nothing_is_found_a_report_says_so_and_old_objects_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out, dicom=ALL)
    dark = np.full((4, 20, 20), -500, np.int16)
    report = segment(write_series(tmp_path / "dark", dark), out, dicom=ALL)
    assert list(report["files"]) == [f"{CASE}.sr.dcm"]
    assert sorted(p.name for p in out.glob("*.dcm")) == [f"{CASE}.sr.dcm"]


def test_merged_lesions_are_one_segment(tmp_path: Path) -> None:
    scan, out = write_series(tmp_path / "ct"), tmp_path / "out"
    report = segment(scan, out, merge_lesions=True)
    found = read_segmentation(out / f"{CASE}.seg.dcm")
    assert [(s.number, s.label, s.snomed) for s in found.segments] == [(1, "lesion", "52988006")]
    mask = read_labels(out / f"{CASE}.nii.gz").values
    np.testing.assert_array_equal(found.mask(1, read_ct(scan).geometry), mask == 1)
    assert len(report["lesions"]) == 2


@pytest.mark.parametrize("dicom", [DicomOptions(kinds=()), DicomOptions()])
def test_other_formats_and_no_dicom_get_no_objects(
    dicom: DicomOptions, write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_series(tmp_path / "ct") if not dicom.kinds else write_scan("a.mha", bright_box())
    report = segment(scan, tmp_path / "out", dicom=dicom)
    assert report["files"] == {}
    assert list((tmp_path / "out").glob("*.dcm")) == []


def test_a_series_that_cannot_be_referred_to_still_gets_its_mask(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "CANARY", StudyInstanceUID=None)
    report = segment(scan, tmp_path / "out")
    assert report["warnings"] == ["no results in DICOM: a slice has no StudyInstanceUID"]
    assert report["files"] == {}
    with pytest.raises(InputError, match="has no StudyInstanceUID"):
        segment(scan, tmp_path / "out", dicom=DicomOptions(required=True))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [(("seg", "rtdose"), "--dicom has no 'rtdose'. Choose from seg, sr, rtstruct"),
     (("sr",), r"a report \(sr\) refers to .* Give --dicom seg,sr")],
)  # fmt: skip
def test_kinds_that_cannot_be_are_refused(kinds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DicomOptions(kinds=kinds)
