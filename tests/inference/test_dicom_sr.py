from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from ct_series import SERIES_UID, STUDY_UID
from dicom_fakes import CASE, segment, write_series
from pydicom.sr.codedict import codes

from samcancer import __version__
from samcancer.inference.dicom_results import DicomOptions
from samcancer.inference.dicom_sr import Findings, write_dicom_sr
from samcancer.taxonomy import load_taxonomy
from samcancer.volume_io import read_ct
from samcancer.volume_io.dicom_codes import Algorithm, SegmentedClass
from samcancer.volume_io.dicom_source import read_dicom_source


def content_of(output: Path) -> Any:
    return hd.sr.srread(output / f"{CASE}.sr.dcm").content


def measured(group: Any) -> dict[tuple[str, str | None], tuple[float, str]]:
    """(Name, derivation) -> value and unit."""
    found = {}
    for item in group.get_measurements():
        derivation = item.derivation
        found[item.name.meaning, derivation and derivation.meaning] = (item.value, item.unit.value)
    return found


def test_every_lesion_has_a_group_with_its_measurements(tmp_path: Path) -> None:
    out = tmp_path / "out"
    lesions = segment(write_series(tmp_path / "ct"), out)["lesions"]
    groups = {
        g.tracking_identifier: g for g in content_of(out).get_volumetric_roi_measurement_groups()
    }
    assert [lesion["lesion_id"] for lesion in lesions] == ["liver_tumor-1", "liver_tumor-2"]
    for lesion in lesions:
        group = groups[lesion["lesion_id"]]
        assert group.tracking_uid == lesion["tracking_uid"]
        assert measured(group) == {
            ("Volume", None): (pytest.approx(lesion["volume_ml"], abs=1e-4), "ml"),
            ("Long axis", None): (pytest.approx(lesion["long_axis_mm"], abs=1e-4), "mm"),
            ("Short axis", None): (pytest.approx(lesion["short_axis_mm"], abs=1e-4), "mm"),
            ("Attenuation Coefficient", "Mean"): (
                pytest.approx(lesion["mean_hu"], abs=1e-4), "[hnsf'U]"),
            ("Attenuation Coefficient", "Standard Deviation"): (
                pytest.approx(lesion["sd_hu"], abs=1e-4), "[hnsf'U]"),
        }  # fmt: skip


def test_a_lesion_says_what_and_where_it_is_and_refers_to_the_segment_of_its_class(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out)
    segmentation = pydicom.dcmread(out / f"{CASE}.seg.dcm")
    for group in content_of(out).get_volumetric_roi_measurement_groups()[:2]:
        assert (group.finding_type.scheme_designator, group.finding_type.value) == (
            "SCT",
            "108369006",
        )
        assert group.finding_category.meaning == "Morphologically Abnormal Structure"
        assert [site.value.meaning for site in group.finding_sites] == ["Liver"]
        segment_item = group.referenced_segment
        assert group.reference_type.meaning == "Referenced Segment"
        assert segment_item.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        number = segment_item.referenced_segment_numbers[0]
        assert segmentation.SegmentSequence[number - 1].SegmentLabel == "liver tumor"


def test_an_organ_has_a_group_with_its_volume(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = segment(write_series(tmp_path / "ct"), out)
    (group,) = (
        g
        for g in content_of(out).get_volumetric_roi_measurement_groups()
        if g.tracking_identifier == "liver"
    )
    voxel_ml = 0.6 * 0.8 * 2.5 / 1000
    labels = pydicom.dcmread(out / f"{CASE}.seg.dcm")
    frames = labels.pixel_array.reshape(-1, labels.Rows, labels.Columns)
    numbers = [
        g.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for g in labels.PerFrameFunctionalGroupsSequence
    ]
    voxels = sum(int(f.sum()) for f, n in zip(frames, numbers, strict=True) if n == 1)
    assert measured(group) == {("Volume", None): (pytest.approx(voxels * voxel_ml, abs=1e-4), "ml")}
    # The organ's own volume in the case report counts the lesions inside it.
    assert report["classes"]["liver"]["volume_ml"] >= voxels * voxel_ml - 1e-4


def test_what_was_looked_for_and_not_found_is_absent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out)
    (group,) = content_of(out).get_image_measurement_groups()
    assert group.tracking_identifier == "kidney_tumor"
    assert [site.value.meaning for site in group.finding_sites] == ["Kidney"]
    evaluations = group.get_qualitative_evaluations(codes.DCM.PresenceOfProperty)
    assert [evaluation.value.meaning for evaluation in evaluations] == ["Absent"]


def test_a_scan_without_findings_has_a_report_of_absences_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct", np.full((4, 20, 20), -500)), out)
    content = content_of(out)
    assert content.get_volumetric_roi_measurement_groups() == []
    told = [g.tracking_identifier for g in content.get_image_measurement_groups()]
    assert told == ["liver", "liver_tumor", "kidney_tumor"]


def test_merged_lesions_keep_their_own_finding_and_share_a_segment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out, merge_lesions=True)
    content = content_of(out)
    groups = content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["liver_tumor-1", "liver_tumor-2"]
    assert {g.referenced_segment.referenced_segment_numbers[0] for g in groups} == {1}
    assert [g.tracking_identifier for g in content.get_image_measurement_groups()] == [
        "kidney_tumor"
    ]


def test_the_observer_is_the_software_and_the_evidence_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out)
    document = hd.sr.srread(out / f"{CASE}.sr.dcm")
    (observer,) = document.content.get_observer_contexts()
    attributes = observer.observer_identifying_attributes
    assert (attributes.name, attributes.model_name) == ("SAMCancer", f"SAMCancer {__version__}")
    evidence = {(uid[0], uid[1], uid[2]) for uid in document.get_evidence()}
    segmentation = pydicom.dcmread(out / f"{CASE}.seg.dcm")
    images = {(STUDY_UID, SERIES_UID, f"{SERIES_UID}.{k}") for k in range(1, 7)}
    own = (STUDY_UID, segmentation.SeriesInstanceUID, segmentation.SOPInstanceUID)
    assert evidence == {*images, own}
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_a_finding_without_its_segmentation_is_refused(tmp_path: Path) -> None:
    ct = read_ct(write_series(tmp_path / "ct"))
    item = SegmentedClass(spec=load_taxonomy().classes["liver"], label=1)
    labels = np.ones(ct.geometry.shape, np.uint8)
    findings = Findings(labels=labels, classes=(item,), looked_for=(item,), lesions=())
    with pytest.raises(ValueError, match="needs its segmentation"):
        write_dicom_sr(
            tmp_path / "a.sr.dcm",
            findings,
            read_dicom_source(ct.files, geometry=ct.geometry),
            segmentation=None,
            algorithm=Algorithm(model_sha256=("0" * 64,)),
        )


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed")
@pytest.mark.parametrize("keep_patient", [False, True])
def test_dcmtk_reads_the_report(keep_patient: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(write_series(tmp_path / "ct"), out, dicom=DicomOptions(keep_patient=keep_patient))
    path = str(out / f"{CASE}.sr.dcm")
    done = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
    for line in ("liver_tumor-1", "Long axis", "Referenced Segment", "Absent", "Finding Site"):
        assert line in done.stdout
    assert "E: " not in done.stderr
