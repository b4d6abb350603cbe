"""Structures in DICOM become the classes of the taxonomy, on the CT's own voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_cases import (
    PATIENT_ID,
    box_contours,
    box_mask,
    write_ct,
    write_rtstruct,
    write_seg,
    write_table,
)
from pydicom.dataset import Dataset
from raw_data import save as save_nifti
from segmentation_fakes import SHARES, dataset_of, frames_of, save_segmentation, segment
from series_fakes import OTHER_SERIES, SERIES, SLICES, ct_slice, hu_of, save

from data_prep.dicom_labels import Structure, classes_of, read_dicom_label
from data_prep.prepare import PrepareOptions, prepare
from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError
from samcancer.inplane import resize_mask
from samcancer.taxonomy import load_taxonomy, taxonomy_from_dict
from samcancer.volume_io import ReadOptions, read_ct

TAXONOMY = taxonomy_from_dict(
    {
        "classes": {
            "liver": {"kind": "organ", "snomed": {"code": "10200004", "meaning": "Liver"}},
            "lung": {"kind": "organ", "snomed": {"code": "39607008", "meaning": "Lung"}},
            "spleen": {"kind": "organ"},
            "liver_tumor": {
                "kind": "lesion",
                "organ": "liver",
                "title": "liver tumor",
                "aliases": ["HCC"],
                "snomed": {"code": "108369006", "meaning": "Neoplasm"},
            },
            "lung_tumor": {
                "kind": "lesion",
                "organ": "lung",
                "snomed": {"code": "108369006", "meaning": "Neoplasm"},
            },
        },
        "datasets": {
            "Clinic": {
                "labels": {},
                "annotates": ["liver", "liver_tumor"],
                "structures": {"GTV-1": "liver_tumor", "BODY": None},
            },
            "Tumors": {"labels": {}, "annotates": ["liver_tumor", "lung_tumor"]},
        },
        "class_sets": {},
    }
)

LIVER, TUMOR, PART = (1, 1, 6, 5), (2, 2, 4, 4), (5, 4, 6, 5)


def classes(*structures: Structure, dataset: str = "Clinic", annotates: Any = None) -> Any:
    spec = TAXONOMY.dataset(dataset)
    found, warnings = classes_of(
        structures,
        dataset=spec,
        annotates=spec.annotates if annotates is None else annotates,
        taxonomy=TAXONOMY,
        path=Path("label.dcm"),
    )
    return {name: [s.name for s in items] for name, items in found.items()}, warnings


def drawn(name: str, snomed: str | None = None, region: str | None = None) -> Structure:
    return Structure(name, lambda: np.zeros(1, bool), snomed, region)


def test_names_titles_and_aliases_are_matched_without_case_and_separators() -> None:
    found, warnings = classes(drawn("LIVER"), drawn("Liver_Tumor"), drawn("hcc"))
    # A tumor of the liver is liver.
    assert found == {
        "liver": ["LIVER", "Liver_Tumor", "hcc"],
        "liver_tumor": ["Liver_Tumor", "hcc"],
    }
    assert warnings == ()


def test_the_table_of_the_data_set_names_classes_and_what_to_ignore() -> None:
    found, warnings = classes(drawn("Liver"), drawn("gtv 1"), drawn("Body"))
    assert found == {"liver": ["Liver", "gtv 1"], "liver_tumor": ["gtv 1"]}
    assert warnings == ()


def test_unknown_names_are_listed_with_what_is_known() -> None:
    with pytest.raises(InputError) as caught:
        classes(drawn("Liver"), drawn("GTV-2"), drawn("couch"))
    assert str(caught.value) == (
        "label.dcm: structures that Clinic does not know: 'GTV-2', 'couch'; known are liver, "
        "liver_tumor, 'GTV-1', 'BODY'. Give each a class, or null to ignore it, under structures "
        "of the data set in a --taxonomy file."
    )


def test_a_structure_of_another_organ_is_left_out_and_told() -> None:
    found, warnings = classes(drawn("Liver"), drawn("HCC"), drawn("Spleen"))
    assert "spleen" not in found
    assert warnings == (
        "structures of organs that the case does not annotate were left out: 'Spleen'",
    )


def test_a_lesion_that_the_case_does_not_annotate_is_not_made_background() -> None:
    with pytest.raises(InputError, match="Clinic does not know: 'lung tumor'"):
        classes(drawn("Liver"), drawn("lung tumor"))


def test_a_named_structure_of_a_class_that_the_case_does_not_annotate_is_refused() -> None:
    with pytest.raises(InputError, match="classes that the case does not annotate: 'GTV-1'"):
        classes(drawn("Liver"), drawn("GTV-1"), annotates=("liver",))


def test_an_annotated_organ_that_was_not_drawn_is_not_taken_as_absent() -> None:
    with pytest.raises(InputError, match="no structure of the annotated organs liver") as caught:
        classes(drawn("HCC"))
    assert "column annotates" in str(caught.value)


def test_an_organ_without_a_contour_was_not_drawn() -> None:
    with pytest.raises(InputError, match="no structure of the annotated organs liver"):
        classes(Structure("Liver"), drawn("HCC"))


def test_an_annotated_lesion_that_was_not_drawn_is_absent_and_told() -> None:
    found, warnings = classes(drawn("Liver"))
    assert found == {"liver": ["Liver"]}
    assert warnings == ("no structure, so absent: 'liver_tumor'",)


@pytest.mark.parametrize(
    ("region", "expected"), [("10200004", "liver_tumor"), ("39607008", "lung_tumor")]
)
def test_a_code_names_a_class_together_with_its_organ(region: str, expected: str) -> None:
    found, _ = classes(drawn("Segment 1", "108369006", region), dataset="Tumors")
    assert found == {expected: ["Segment 1"]}


def test_a_code_that_fits_two_classes_names_none() -> None:
    with pytest.raises(InputError, match="does not know: 'Segment 1'"):
        classes(drawn("Segment 1", "108369006"), dataset="Tumors")


def test_names_without_a_latin_letter_are_not_all_the_same() -> None:
    with pytest.raises(InputError, match="does not know: '肝脏'"):
        classes(drawn("Liver"), drawn("肝脏"))


def write_regions(tmp_path: Path, **options: Any) -> Path:
    geometry = write_ct(tmp_path / "ct")
    ring = box_contours(geometry, LIVER, 1, 2, 3)
    return write_rtstruct(
        tmp_path / "rs.dcm",
        {
            "Liver": [*ring, *box_contours(geometry, TUMOR, 1, 2, 3)],  # a hole by XOR
            "GTV-1": box_contours(geometry, TUMOR, 1, 2, 3),
            "HCC": box_contours(geometry, PART, 2),
        },
        **options,
    )


def label_of(path: Path, folder: Path, **options: Any) -> Any:
    spec = TAXONOMY.dataset("Clinic")
    return read_dicom_label(
        path, read_ct(folder), dataset=spec, annotates=spec.annotates, taxonomy=TAXONOMY, **options
    )


def test_contours_fill_voxels_with_holes_and_classes_overlap(tmp_path: Path) -> None:
    label = label_of(write_regions(tmp_path), tmp_path / "ct")
    tumor = box_mask(TUMOR, 1, 2, 3) | box_mask(PART, 2)
    np.testing.assert_array_equal(label.mask("liver_tumor"), tumor)
    # The drawn liver leaves the tumor out; the taxonomy puts it back.
    np.testing.assert_array_equal(label.mask("liver"), box_mask(LIVER, 1, 2, 3))


def seg_of(folder: Path, **changes: Any) -> Path:
    geometry = write_ct(folder / "ct")
    masks = {1: box_mask(LIVER, 1, 2, 3), 2: box_mask(TUMOR, 2)}
    segments = [segment(1, "Organ", "10200004"), segment(2, "Neoplasm 1", "108369006", "10200004")]
    return write_seg(folder / "seg.dcm", masks, segments, geometry, **changes)


def test_segments_are_known_by_their_codes(tmp_path: Path) -> None:
    label = label_of(seg_of(tmp_path, PatientID=PATIENT_ID), tmp_path / "ct")
    np.testing.assert_array_equal(label.mask("liver"), box_mask(LIVER, 1, 2, 3))
    np.testing.assert_array_equal(label.mask("liver_tumor"), box_mask(TUMOR, 2))


def test_a_label_of_another_patient_is_refused_and_neither_is_quoted(tmp_path: Path) -> None:
    path = seg_of(tmp_path, PatientID="OTHER-99")
    with pytest.raises(InputError, match="its PatientID is not that of the image") as caught:
        label_of(path, tmp_path / "ct")
    assert "OTHER-99" not in str(caught.value)
    assert PATIENT_ID not in str(caught.value)


def test_a_label_without_a_patient_id_is_taken(tmp_path: Path) -> None:
    assert label_of(seg_of(tmp_path), tmp_path / "ct").mask("liver").any()


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_another_frame_of_reference_is_refused(kind: str, tmp_path: Path) -> None:
    path = seg_of(tmp_path) if kind == "seg" else write_regions(tmp_path)
    for file in (tmp_path / "ct").iterdir():
        content = pydicom.dcmread(file)
        content.FrameOfReferenceUID = "1.2.3"
        content.save_as(file)
    with pytest.raises(InputError, match=r"frame of reference .*, the CT has 1\.2\.3"):
        label_of(path, tmp_path / "ct").mask("liver")


def test_a_point_that_is_ignored_does_not_refuse_the_file(tmp_path: Path) -> None:
    geometry = write_ct(tmp_path / "ct")
    path = write_rtstruct(
        tmp_path / "rs.dcm",
        {"Liver": box_contours(geometry, LIVER, 1), "Body": [[0.0, 0.0, 0.0]], "HCC": []},
    )
    content = pydicom.dcmread(path)
    content.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    content.save_as(path)
    label = label_of(path, tmp_path / "ct")
    assert label.mask("liver").sum() == box_mask(LIVER, 1).sum()
    assert label.warnings == ("structures without a contour: 'HCC'",)


def test_a_ct_slice_is_no_label(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    path = save(tmp_path / "slice.dcm", ct_slice(0))
    with pytest.raises(InputError, match="is DICOM but neither RTSTRUCT nor SEG"):
        label_of(path, tmp_path / "ct")


def test_contours_on_a_scan_without_a_frame_of_reference_are_refused(tmp_path: Path) -> None:
    path = write_regions(tmp_path)
    save_nifti(tmp_path / "ct.nii.gz", hu_of().astype(np.int16))
    with pytest.raises(InputError, match=r"frame of reference, which ct\.nii\.gz does not state"):
        label_of(path, tmp_path / "ct.nii.gz")


MINE = """
datasets:
  Clinic:
    annotates: [liver, liver_tumor]
    structures: {GTV-1: liver_tumor, HCC: liver_tumor, Liver drawn: liver, BODY: null}
"""


def prepared(tmp_path: Path, rows: list[dict[str, str]], **options: Any) -> Any:
    (tmp_path / "mine.yaml").write_text(MINE)
    return prepare(
        PrepareOptions(
            inputs=(write_table(tmp_path / "cases.csv", rows),),
            output=tmp_path / "store",
            taxonomy=tmp_path / "mine.yaml",
            dataset="Clinic",
            size=16,
            **options,
        ),
        show_progress=False,
    )


def stored_mask(store: CaseStore, case_id: str, name: str) -> np.ndarray:
    bit = store.class_names.index(name)
    info = store.cases[case_id]
    return store.label_bits(case_id, 0, info.slices) >> bit & 1 > 0


def test_a_table_prepares_series_with_structures_and_segments(tmp_path: Path) -> None:
    write_regions(tmp_path / "a")
    seg_of(tmp_path / "b", PatientID=PATIENT_ID)
    summary = prepared(
        tmp_path,
        [
            {"image": "a/ct", "label": "a/rs.dcm", "case": "first", "patient": "p1"},
            {"image": "b/ct", "label": "b/seg.dcm", "case": "second", "patient": "p2"},
        ],
    )
    assert [r.fact for r in summary.refused] == []
    store = CaseStore(tmp_path / "store")
    expected = {
        "first": {
            "liver": box_mask(LIVER, 1, 2, 3),
            "liver_tumor": box_mask(TUMOR, 1, 2, 3) | box_mask(PART, 2),
        },
        "second": {"liver": box_mask(LIVER, 1, 2, 3), "liver_tumor": box_mask(TUMOR, 2)},
    }
    for case_id, masks in expected.items():
        info = store.cases[case_id]
        assert info.annotated == ("liver", "liver_tumor")
        for name, mask in masks.items():
            # The series runs to superior, posterior and left already, as the store does.
            assert info.voxels[name] == mask.sum()
            np.testing.assert_array_equal(
                stored_mask(store, case_id, name), resize_mask(mask, info.grid)
            )
    assert store.cases["first"].patient_id == "p1"


def test_the_column_series_chooses_one_of_several(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    for z in range(4):
        content = ct_slice(z, SeriesInstanceUID=OTHER_SERIES, SOPInstanceUID=f"1.2.3.{z}")
        save(tmp_path / "ct" / f"other_{z}.dcm", content)
    summary = prepared(
        tmp_path,
        [
            {"image": "ct", "case": "six", "series": SERIES},
            {"image": "ct", "case": "four", "series": OTHER_SERIES},
            {"image": "ct", "case": "none"},
        ],
    )
    store = CaseStore(tmp_path / "store")
    assert {name: info.slices for name, info in store.cases.items()} == {"six": 6, "four": 4}
    assert [r.case_id for r in summary.refused] == ["none"]
    assert "holds 2 CT series" in summary.refused[0].fact


def test_a_finished_case_is_refused_once_its_series_is_another(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    row = {"image": "ct", "case": "one", "series": SERIES}
    assert prepared(tmp_path, [row]).prepared == 1
    assert prepared(tmp_path, [row]).kept == 1
    for z in range(4):
        content = ct_slice(z, SeriesInstanceUID=OTHER_SERIES, SOPInstanceUID=f"1.2.3.{z}")
        save(tmp_path / "ct" / f"other_{z}.dcm", content)
    assert prepared(tmp_path, [row]).kept == 1
    summary = prepared(tmp_path, [row | {"series": OTHER_SERIES}])
    assert "the image changed since case 'one' was prepared" in summary.refused[0].fact


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (("BODY: null", "BODY: null, Couch: null"), True),
        (("BODY: null", "BODY: null, Liver: null"), False),
        (("BODY: null", "BODY: liver"), False),
        (("GTV-1: liver_tumor, ", ""), False),
    ],
)
def test_a_store_takes_more_names_of_structures_but_no_other_meaning(
    change: tuple[str, str], fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_regions(tmp_path)
    row = {"image": "ct", "label": "rs.dcm", "case": "one"}
    assert prepared(tmp_path, [row]).prepared == 1
    monkeypatch.setattr("test_dicom_labels.MINE", MINE.replace(*change))
    if fits:
        assert prepared(tmp_path, [row]).kept == 1
        return
    with pytest.raises(InputError, match="were read with another table of labels"):
        prepared(tmp_path, [row])


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_a_label_names_the_series_that_it_was_drawn_on(kind: str, tmp_path: Path) -> None:
    path = write_regions(tmp_path) if kind == "rtstruct" else seg_of(tmp_path)
    for z in range(4):
        content = ct_slice(z, SeriesInstanceUID=OTHER_SERIES, SOPInstanceUID=f"1.2.3.{z}")
        save(tmp_path / "ct" / f"other_{z}.dcm", content)
    row = {"image": "ct", "label": path.name, "case": "one"}
    assert "holds 2 CT series" in prepared(tmp_path, [row]).refused[0].fact
    content = pydicom.dcmread(path)
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = SERIES
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    if kind == "rtstruct":
        content.ReferencedFrameOfReferenceSequence = [frame]
    else:
        content.ReferencedSeriesSequence = [series]
    content.save_as(path)
    assert prepared(tmp_path, [row]).refused == ()
    assert CaseStore(tmp_path / "store").cases["one"].slices == SLICES


def test_a_fractional_segmentation_needs_a_threshold(tmp_path: Path) -> None:
    geometry = write_ct(tmp_path / "ct")
    shares = np.where(box_mask(LIVER, 2), SHARES, 0) + np.where(box_mask(TUMOR, 4), SHARES // 4, 0)
    content = dataset_of(
        frames_of({1: shares}, geometry), [segment(1, "Liver")], geometry, kind="FRACTIONAL"
    )
    save_segmentation(tmp_path / "seg.dcm", content)
    row = {"image": "ct", "label": "seg.dcm", "case": "one", "annotates": "liver"}
    assert "--seg-threshold" in (prepared(tmp_path, [row]).refused[0].mend or "")
    summary = prepared(tmp_path, [row], reading=ReadOptions(seg_threshold=0.5))
    assert summary.refused == ()
    case = CaseStore(tmp_path / "store").cases["one"]
    assert case.voxels == {"liver": int(box_mask(LIVER, 2).sum())}


def test_the_structures_of_a_data_set_survive_the_store_s_copy(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    taxonomy = load_taxonomy(tmp_path / "mine.yaml")
    assert taxonomy_from_dict(taxonomy.to_dict()) == taxonomy
    assert taxonomy.dataset("Clinic").structures == {
        "GTV-1": ("liver_tumor",),
        "HCC": ("liver_tumor",),
        "Liver drawn": ("liver",),
        "BODY": (),
    }


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ({"GTV": "no_such"}, "names the unknown class 'no_such'"),
        ({"GTV-1": "liver", "gtv 1": "liver"}, "structure name 'gtv_1' belongs to both"),
    ],
)
def test_a_table_of_structures_that_cannot_be_is_refused(structures: Any, message: str) -> None:
    content = {"classes": {"liver": {"kind": "organ"}}, "class_sets": {}}
    with pytest.raises(InputError, match=message):
        taxonomy_from_dict({**content, "datasets": {"Mine": {"structures": structures}}})
