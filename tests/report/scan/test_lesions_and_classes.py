"""Lesions from a report and from a mask, whatever way the file stores its slices."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_cases import GEOMETRY, REPORT, measured_lesion, scan_hu, scan_labels, write_scan

from samcancer.errors import InputError
from samcancer.geometry import Geometry, canonicalise
from samcancer.report.scan.case import ScanCase, read_case
from samcancer.report.scan.lesions import MAX_LISTED, largest_lesions, lesions_of
from samcancer.volume_io import ReadOptions, write_ct, write_labels


def stored_otherwise(tmp_path: Path) -> tuple[Path, Path]:
    """Write the same patient with all three axes of the file turned round."""
    x, y, z = GEOMETRY.size_xyz
    turned = Geometry(
        GEOMETRY.size_xyz,
        GEOMETRY.spacing_mm,
        tuple(GEOMETRY.position_mm(np.array([x - 1, y - 1, z - 1])).tolist()),  # type: ignore[arg-type]
        (-1, 0, 0, 0, -1, 0, 0, 0, -1),
    )
    scan, mask = tmp_path / "turned_scan.nii.gz", tmp_path / "turned.nii.gz"
    write_ct(scan, np.ascontiguousarray(scan_hu()[::-1, ::-1, ::-1]), turned)
    write_labels(mask, np.ascontiguousarray(scan_labels()[::-1, ::-1, ::-1]), turned)
    return scan, mask


def case_of(paths: tuple[Path, Path], report: dict[str, Any]) -> ScanCase:
    return read_case(*paths, report, read=ReadOptions(), case_id="case")


def test_without_a_report_lesions_are_components_of_the_mask(tmp_path: Path) -> None:
    """The liver lesion has 4 x 10 x 12 voxels of 2 x 2.5 x 4 mm: 480 x 0.02 ml."""
    report = {key: value for key, value in REPORT.items() if key != "lesions"}
    liver, kidney = lesions_of(case_of(write_scan(tmp_path), report))
    assert liver.volume_ml == pytest.approx(480 * 0.02)
    assert (liver.first_slice, liver.last_slice, liver.key_slice) == (5, 8, 5)
    assert liver.mean_hu == pytest.approx(scan_hu()[5:9, 10:20, 12:24].mean())
    assert (kidney.first_slice, kidney.last_slice) == (12, 13)
    assert liver.probability is None


def test_diameters_of_a_mask_are_those_of_its_outline(tmp_path: Path) -> None:
    """Rows 10-19 of 2.5 mm, columns 12-23 of 2 mm: the outline joins edge midpoints, which cuts its
    corners, so the longest line runs from (x 12, y 9.5) to (x 23, y 19.5): 22 by 25 mm."""
    liver, _ = lesions_of(case_of(write_scan(tmp_path), REPORT))
    assert liver.long_axis_mm == pytest.approx(np.hypot(22.0, 25.0))
    assert {*liver.long_axis} in ({(12.0, 9.5), (23.0, 19.5)}, {(12.0, 19.5), (23.0, 9.5)})


def test_components_are_numbered_from_the_head(tmp_path: Path) -> None:
    scan, mask = write_scan(tmp_path)
    labels = scan_labels()
    labels[17, 20, 20] = 1
    write_labels(mask, labels, GEOMETRY)
    found = lesions_of(case_of((scan, mask), REPORT))
    assert [(lesion.name, lesion.key_slice) for lesion in found][:2] == [
        ("liver_lesion-1", 17),
        ("liver_lesion-2", 5),
    ]


def test_measured_diameters_become_voxels_of_the_key_slice(tmp_path: Path) -> None:
    report = {**REPORT, "lesions": [asdict(measured_lesion())]}
    (lesion,) = lesions_of(case_of(write_scan(tmp_path), report))
    assert (lesion.key_slice, lesion.first_slice, lesion.last_slice) == (6, 5, 8)
    assert np.allclose(lesion.long_axis, [(12, 10), (23, 19)])
    assert np.allclose(lesion.short_axis, [(22, 11), (14, 18)])
    assert lesion.probability == 0.91


def test_a_file_stored_the_other_way_round_shows_the_same(tmp_path: Path) -> None:
    """The report counts slices from the feet and places in mm, whatever the order of the file."""
    report = {**REPORT, "lesions": [asdict(measured_lesion())]}
    plain = case_of(write_scan(tmp_path), report)
    turned = case_of(stored_otherwise(tmp_path), report)
    assert np.array_equal(plain.hu, turned.hu)
    assert np.array_equal(plain.labels, turned.labels)
    (one,), (other,) = lesions_of(plain), lesions_of(turned)
    assert np.allclose(one.long_axis, other.long_axis)
    assert replace(one, long_axis=other.long_axis, short_axis=other.short_axis) == other


def test_a_lesion_of_merged_labels_keeps_its_own_class(tmp_path: Path) -> None:
    merged = {**REPORT, "labels": {"background": 0, "lesion": 1}}
    lesion = asdict(measured_lesion())
    (found,) = lesions_of(case_of(write_scan(tmp_path), {**merged, "lesions": [lesion]}))
    assert (found.class_title, found.label) == ("liver lesion", 1)


def test_a_report_of_another_scan_is_refused(tmp_path: Path) -> None:
    lesion = {**asdict(measured_lesion()), "last_slice": 20}
    with pytest.raises(InputError, match="slices 5 to 20, the scan has 20"):
        lesions_of(case_of(write_scan(tmp_path), {**REPORT, "lesions": [lesion]}))


def test_classes_that_were_looked_for_and_not_found_are_kept(tmp_path: Path) -> None:
    classes = {c.name: c for c in case_of(write_scan(tmp_path), REPORT).classes}
    assert list(classes) == ["liver_lesion", "kidney_lesion", "lung_lesion"]
    assert classes["liver_lesion"].volume_ml == pytest.approx(480 * 0.02)
    lung = classes["lung_lesion"]
    assert (lung.label, lung.volume_ml, lung.threshold, lung.presence) == (None, 0.0, 0.6, 0.03)


def test_values_that_no_report_names_are_shown_by_their_number(tmp_path: Path) -> None:
    case = case_of(write_scan(tmp_path), {})
    assert [(c.name, c.label, c.kind) for c in case.classes] == [
        ("label_1", 1, "lesion"),
        ("label_2", 2, "lesion"),
    ]


def test_of_very_many_lesions_the_largest_are_listed_in_their_order(tmp_path: Path) -> None:
    """209 single voxels, two of them grown to two voxels: those two and 198 others are kept."""
    scan, mask = write_scan(tmp_path)
    labels = np.zeros(GEOMETRY.shape, dtype=np.uint8)
    labels[1:20:2, 1:40:2, 1:3:2] = 1
    labels[1:2, 1:19:2, 21] = 1
    labels[9, 9, 2] = labels[19, 1, 2] = 1
    write_labels(mask, labels, GEOMETRY)
    found = lesions_of(case_of((scan, mask), REPORT))
    assert len(found) == 209
    listed = largest_lesions(found)
    assert len(listed) == MAX_LISTED
    assert [lesion for lesion in found if lesion in listed] == list(listed)
    assert sum(lesion.volume_ml == pytest.approx(0.04) for lesion in listed) == 2


def test_a_label_beyond_a_byte_is_refused(tmp_path: Path) -> None:
    scan, mask = write_scan(tmp_path)
    labels = scan_labels().astype(np.int64)
    labels[0, 0, 0] = 300
    with pytest.raises(InputError, match="holds the label 300"):
        read_case(scan, mask, {}, read=ReadOptions(), case_id="case", labels=labels)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    scan, mask = write_scan(tmp_path)
    shifted = Geometry(GEOMETRY.size_xyz, GEOMETRY.spacing_mm, (0.0, 0.0, 0.0), GEOMETRY.direction)
    write_labels(mask, scan_labels(), shifted)
    with pytest.raises(InputError, match="corners lie up to"):
        case_of((scan, mask), {})


def test_canonical_arrays_are_views_of_what_is_in_memory() -> None:
    """Guards the premise of the page's memory: turning a scan copies nothing."""
    hu = scan_hu()
    assert np.shares_memory(canonicalise(hu, GEOMETRY)[0], hu)
