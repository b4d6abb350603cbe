from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from ct_series import (
    FRAME_UID,
    SERIES_UID,
    STUDY_UID,
    TURNED,
    places_mm,
    rounded,
    write_ct_series,
)
from volume_fakes import ORIENTATIONS

from samcancer.errors import InputError
from samcancer.taxonomy import load_taxonomy
from samcancer.volume_io import CtVolume, dicom_seg, read_ct
from samcancer.volume_io.dicom_codes import Algorithm, SegmentedClass, colour_of
from samcancer.volume_io.dicom_seg import write_dicom_seg
from samcancer.volume_io.dicom_seg_reading import read_segmentation
from samcancer.volume_io.dicom_source import DicomSource, read_dicom_source

CLASSES = load_taxonomy().classes

LIVER, TUMOR, VEIN = 1, 2, 3

SEGMENTED = (
    SegmentedClass(spec=CLASSES["liver"], label=LIVER),
    SegmentedClass(spec=CLASSES["liver_tumor"], label=TUMOR, site=CLASSES["liver"]),
    SegmentedClass(spec=CLASSES["portal_and_splenic_vein"], label=VEIN),
)

ALGORITHM = Algorithm(model_sha256=("ab" * 32, "cd" * 32))

ROTATIONS = [*ORIENTATIONS, TURNED, TURNED @ np.diag([1, 1, -1])]


def asymmetric_labels() -> np.ndarray:
    """Labels that no turn or flip maps onto themselves, some of them at the border."""
    labels = np.zeros((5, 7, 9), np.uint8)
    labels[1:4, 2:6, 1:5] = LIVER
    labels[2:4, 3:5, 2:4] = TUMOR
    labels[4, 0, 8] = TUMOR
    labels[0, 6, :3] = TUMOR
    return labels


def read_series(folder: Path, **source: bool) -> tuple[CtVolume, DicomSource]:
    ct = read_ct(folder)
    found = read_dicom_source(ct.files, geometry=ct.geometry, **source)
    return ct, found.for_case("case 7")


def in_file_order(values: np.ndarray, ct: CtVolume) -> np.ndarray:
    """Labels given in the order of the instance numbers, in the order of the scan's slices."""
    numbers = [int(pydicom.dcmread(path).InstanceNumber) for path in ct.files]
    return values[[number - 1 for number in numbers]]


def write_labels(
    tmp_path: Path, labels: np.ndarray, direction: np.ndarray | None = None
) -> tuple[Path, CtVolume]:
    hu = np.full(labels.shape, -500)
    ct, source = read_series(write_ct_series(tmp_path / "ct", hu, direction=direction))
    path = tmp_path / "case.seg.dcm"
    ordered = in_file_order(labels, ct)
    write_dicom_seg(path, ordered, source, classes=SEGMENTED, algorithm=ALGORITHM)
    return path, ct


def places_in_file(path: Path, number: int) -> set[tuple[float, ...]]:
    """Read a segment by what DICOM says of each frame, with nothing of samcancer or highdicom."""
    content = pydicom.dcmread(path)
    frames = content.pixel_array.reshape(-1, content.Rows, content.Columns)
    shared = content.SharedFunctionalGroupsSequence[0]
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    points = []
    for frame, group in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
        where = group if "SegmentIdentificationSequence" in group else shared
        if where.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        first = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points += [
            first + column * between_columns * cosines[0] + row * between_rows * cosines[1]
            for row, column in zip(rows, columns, strict=True)
        ]
    return rounded(np.array(points))


@pytest.mark.parametrize("direction", ROTATIONS)
def test_every_segment_lies_where_its_voxels_are_in_the_patient(
    direction: np.ndarray, tmp_path: Path
) -> None:
    labels = asymmetric_labels()
    path, ct = write_labels(tmp_path, labels, direction)
    assert places_in_file(path, 1) == places_mm(labels == LIVER, direction=direction)
    assert places_in_file(path, 2) == places_mm(labels == TUMOR, direction=direction)
    found = read_segmentation(path)
    ordered = in_file_order(labels, ct)
    np.testing.assert_array_equal(found.mask(1, ct.geometry), ordered == LIVER)
    np.testing.assert_array_equal(found.mask(2, ct.geometry), ordered == TUMOR)


@pytest.mark.parametrize("direction", ROTATIONS)
def test_simpleitk_reads_a_segment_without_empty_slices_on_the_same_places(
    direction: np.ndarray, tmp_path: Path
) -> None:
    labels = np.zeros((4, 7, 8), np.uint8)
    labels[:, 2:5, 1:3] = TUMOR
    labels[1:, 5, 6] = TUMOR
    path, _ = write_labels(tmp_path, labels, direction)
    image = sitk.ReadImage(str(path))
    index_xyz = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1].tolist()
    points = np.array([image.TransformIndexToPhysicalPoint(index) for index in index_xyz])
    assert rounded(points) == places_mm(labels == TUMOR, direction=direction)


def test_highdicom_reads_the_same_volume(tmp_path: Path) -> None:
    labels = asymmetric_labels()
    path, _ = write_labels(tmp_path, labels, TURNED)
    found = hd.seg.segread(path).get_volume(combine_segments=True)
    index = np.argwhere(found.array == 2)
    assert rounded(found.map_indices_to_reference(index)) == places_mm(
        labels == TUMOR, direction=TURNED
    )


def test_segments_say_what_they_are_and_where(tmp_path: Path) -> None:
    labels = asymmetric_labels()
    labels[0, 0, 0] = VEIN
    content = pydicom.dcmread(write_labels(tmp_path, labels)[0])
    told = [
        (
            segment.SegmentNumber,
            segment.SegmentLabel,
            segment.TrackingID,
            segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning,
            segment.SegmentAlgorithmType,
        )
        for segment in content.SegmentSequence
    ]
    assert told == [
        (1, "liver", "liver", "Anatomical Structure", "AUTOMATIC"),
        (2, "liver tumor", "liver_tumor", "Morphologically Abnormal Structure", "AUTOMATIC"),
        (3, "portal vein and splenic vein", "portal_and_splenic_vein", "Anatomical Structure",
         "AUTOMATIC"),
    ]  # fmt: skip
    liver, tumor, vein = (s.SegmentedPropertyTypeCodeSequence[0] for s in content.SegmentSequence)
    assert (liver.CodingSchemeDesignator, liver.CodeValue) == ("SCT", "10200004")
    assert (tumor.CodingSchemeDesignator, tumor.CodeValue) == ("SCT", "108369006")
    assert (vein.CodingSchemeDesignator, vein.LongCodeValue) == (
        "99SAMCANCER",
        "portal_and_splenic_vein",
    )
    assert content.SegmentSequence[1].AnatomicRegionSequence[0].CodeValue == "10200004"
    assert "AnatomicRegionSequence" not in content.SegmentSequence[0]
    algorithm = content.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "SAMCancer"
    assert f"model_sha256_2={'cd' * 32}" in algorithm.AlgorithmParameters
    assert len({s.TrackingUID for s in content.SegmentSequence}) == 3


def test_the_segmentation_joins_the_study_and_names_every_image(tmp_path: Path) -> None:
    path, ct = write_labels(tmp_path, asymmetric_labels())
    content = pydicom.dcmread(path)
    assert content.StudyInstanceUID == STUDY_UID
    assert content.FrameOfReferenceUID == FRAME_UID
    assert content.SeriesInstanceUID not in (SERIES_UID, STUDY_UID)
    assert content.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES_UID
    named = {i.ReferencedSOPInstanceUID for i in content.SourceImageSequence}
    assert named == {f"{SERIES_UID}.{k + 1}" for k in range(len(ct.files))}
    assert content.SegmentationType == "BINARY"


def test_every_segment_has_a_colour_of_its_own(tmp_path: Path) -> None:
    content = pydicom.dcmread(write_labels(tmp_path, asymmetric_labels())[0])
    told = [tuple(s.RecommendedDisplayCIELabValue) for s in content.SegmentSequence]
    assert told == [colour_of(label).value for label in (LIVER, TUMOR)]
    apart = [
        np.linalg.norm(np.subtract(colour_of(a).lab, colour_of(b).lab))
        for a in range(1, 8)
        for b in range(1, a)
    ]
    assert min(apart) > 20  # ten times what an eye tells apart


def test_without_a_voxel_there_is_no_segmentation(tmp_path: Path) -> None:
    path, _ = write_labels(tmp_path, np.zeros((3, 4, 5), np.uint8))
    assert not path.exists()


def test_the_same_labels_give_the_same_bytes_and_others_another_object(tmp_path: Path) -> None:
    labels = asymmetric_labels()
    first, second = (write_labels(tmp_path / name, labels)[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    labels[0, 0, 0] = LIVER
    third = pydicom.dcmread(write_labels(tmp_path / "c", labels)[0])
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert third[name].value != pydicom.dcmread(first)[name].value


def test_a_segmentation_that_reads_back_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = dicom_seg.finish

    def wrong(content: pydicom.Dataset, patient: dict[str, str]) -> pydicom.Dataset:
        flipped = bytearray(content.PixelData)
        flipped[2] ^= 1
        content.PixelData = bytes(flipped)
        return honest(content, patient)

    monkeypatch.setattr(dicom_seg, "finish", wrong)
    with pytest.raises(InputError, match=r"case\.seg\.dcm: cannot be written \(reading back gave"):
        write_labels(tmp_path, asymmetric_labels())
    assert [p.name for p in tmp_path.iterdir()] == ["ct"]


def test_slices_that_lie_a_little_askew_keep_their_own_positions(tmp_path: Path) -> None:
    """Positions as a scanner rounds them: the grid is a straight line through them."""
    folder = write_ct_series(tmp_path / "ct", np.full((5, 7, 9), -500))
    for path in folder.iterdir():
        content = pydicom.dcmread(path)
        x, y, z = content.ImagePositionPatient
        content.ImagePositionPatient = [x + 0.05 * (content.InstanceNumber % 2), y, z]
        content.save_as(path)
    ct, source = read_series(folder)
    path = tmp_path / "case.seg.dcm"
    write_dicom_seg(path, asymmetric_labels(), source, classes=SEGMENTED, algorithm=ALGORITHM)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    told = {float(g.PlanePositionSequence[0].ImagePositionPatient[0]) for g in groups}
    assert told == {-31.0, -30.95}
    assert ct.geometry.origin_mm[0] == -30.95


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_the_segmentation_without_a_complaint(tmp_path: Path) -> None:
    path, _ = write_labels(tmp_path, asymmetric_labels())
    done = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, check=True)
    assert "=SegmentationStorage" in done.stdout
    assert done.stderr == ""
