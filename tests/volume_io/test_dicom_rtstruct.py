from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_series import FRAME_UID, SERIES_UID, STUDY_UID, TURNED, write_ct_series
from test_dicom_seg import (
    ALGORITHM,
    LIVER,
    SEGMENTED,
    TUMOR,
    asymmetric_labels,
    in_file_order,
    read_series,
)
from volume_fakes import ORIENTATIONS

from data_prep.rtstruct import rasterise, read_structure_set
from samcancer.volume_io import CtVolume
from samcancer.volume_io.dicom_rtstruct import write_dicom_rtstruct


def write(
    tmp_path: Path, labels: np.ndarray, direction: np.ndarray | None = None
) -> tuple[Path, CtVolume]:
    folder = write_ct_series(tmp_path / "ct", np.full(labels.shape, -500), direction=direction)
    ct, source = read_series(folder)
    path = tmp_path / "case.rtstruct.dcm"
    ordered = in_file_order(labels, ct)
    write_dicom_rtstruct(path, ordered, source, classes=SEGMENTED, algorithm=ALGORITHM)
    return path, ct


def mask_of(path: Path, name: str, ct: CtVolume) -> np.ndarray:
    structures = read_structure_set(path)
    return rasterise(structures, name, geometry=ct.geometry, frame_of_reference_uid=FRAME_UID)


@pytest.mark.parametrize("direction", [*ORIENTATIONS, TURNED])
def test_rasterised_contours_are_the_voxels_again(direction: np.ndarray, tmp_path: Path) -> None:
    """The liver has a hole, and the tumor lies in it and in three corners of the scan."""
    labels = asymmetric_labels()
    path, ct = write(tmp_path, labels, direction)
    ordered = in_file_order(labels, ct)
    np.testing.assert_array_equal(mask_of(path, "liver", ct), ordered == LIVER)
    np.testing.assert_array_equal(mask_of(path, "liver_tumor", ct), ordered == TUMOR)


@pytest.mark.parametrize("seed", range(3))
def test_ragged_masks_come_back_voxel_by_voxel(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, size=(4, 21, 17)).astype(np.uint8)
    path, ct = write(tmp_path, labels, TURNED)
    np.testing.assert_array_equal(mask_of(path, "liver", ct), labels == LIVER)


def test_only_a_class_with_a_hole_has_contours_by_exclusive_or(tmp_path: Path) -> None:
    content = pydicom.dcmread(write(tmp_path, asymmetric_labels())[0])
    kinds = [
        {contour.ContourGeometricType for contour in roi.ContourSequence}
        for roi in content.ROIContourSequence
    ]
    assert kinds == [{"CLOSEDPLANAR_XOR"}, {"CLOSED_PLANAR"}]


def test_contours_name_the_image_that_they_lie_on(tmp_path: Path) -> None:
    path, ct = write(tmp_path, asymmetric_labels())
    content = pydicom.dcmread(path)
    heights = {
        header.SOPInstanceUID: float(header.ImagePositionPatient[2])
        for header in map(pydicom.dcmread, ct.files)
    }
    for roi in content.ROIContourSequence:
        for contour in roi.ContourSequence:
            image = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            assert set(contour.ContourData[2::3]) == {heights[image]}
            assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints


def test_the_structure_set_joins_the_study(tmp_path: Path) -> None:
    content = pydicom.dcmread(write(tmp_path, asymmetric_labels())[0])
    assert (content.Modality, content.StudyInstanceUID) == ("RTSTRUCT", STUDY_UID)
    frame = content.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert (frame.FrameOfReferenceUID, series.SeriesInstanceUID) == (FRAME_UID, SERIES_UID)
    assert len(series.ContourImageSequence) == 5
    assert content.ApprovalStatus == "UNAPPROVED"
    assert content.PatientID == "case 7"
    assert "CANARY" not in str(content)


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, asymmetric_labels())[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_without_a_voxel_there_is_no_structure_set(tmp_path: Path) -> None:
    assert not write(tmp_path, np.zeros((3, 4, 5), np.uint8))[0].exists()


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_the_structure_set_without_a_complaint(tmp_path: Path) -> None:
    path, _ = write(tmp_path, asymmetric_labels())
    done = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, check=True)
    assert "=RTStructureSetStorage" in done.stdout
    assert done.stderr == ""
