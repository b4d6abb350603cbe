from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from inference_fakes import WriteScan, bright_box, lesion_in_organ, make_ensemble

from samcancer.geometry import Geometry
from samcancer.inference import lesion_table
from samcancer.inference.lesion_table import MeasuredLesion, measure_lesions, write_lesions
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import segment_scan
from samcancer.inference.volume import SliceCertainty
from samcancer.taxonomy import ClassSpec

SPACING_MM = (0.8, 1.25, 3.0)
"""x, y, z."""

CLASSES = (
    ClassSpec(name="organ", title="organ", kind="organ"),
    ClassSpec(name="tumor", title="tumor", kind="lesion"),
    ClassSpec(name="cyst", title="cyst", kind="lesion"),
)

WRITTEN = {"organ": 1, "tumor": 2, "cyst": 3}


def grid(shape: tuple[int, int, int]) -> Geometry:
    z, y, x = shape
    return Geometry((x, y, z), SPACING_MM, (10.0, -20.0, 30.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def all_sure(labels: np.ndarray, *, agreement: int | None = None) -> dict[int, SliceCertainty]:
    everywhere = slice(0, labels.shape[1]), slice(0, labels.shape[2])
    share = None if agreement is None else np.full(labels.shape[1:], agreement, np.uint8)
    return {
        z: SliceCertainty(*everywhere, np.full(labels.shape[1:], 255, np.uint8), share)
        for z in range(len(labels))
    }


def measure(
    labels: np.ndarray,
    *,
    hu: np.ndarray | None = None,
    certainty: dict[int, SliceCertainty] | None = None,
    presence: np.ndarray | None = None,
    written: dict[str, int] | None = None,
) -> tuple[MeasuredLesion, ...]:
    return measure_lesions(
        labels,
        volume_hu=np.zeros(labels.shape, np.int16) if hu is None else hu,
        geometry=grid(labels.shape),
        classes=CLASSES,
        written=written or WRITTEN,
        certainty=all_sure(labels) if certainty is None else certainty,
        presence=np.ones((len(labels), 3), np.float32) if presence is None else presence,
        scan_sha256="a" * 64,
    )


def two_boxes() -> np.ndarray:
    """A tumor of 2 x 3 x 4 voxels low in the patient, another of one voxel above it, and a cyst."""
    labels = np.zeros((9, 12, 14), np.uint8)
    labels[1:3, 2:5, 3:7] = 2
    labels[6, 8, 9] = 2
    labels[7, 1:3, 1:3] = 3
    return labels


def test_no_lesion_is_an_empty_table(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    assert measure(labels) == ()
    write_lesions(tmp_path / "t.csv", ())
    assert (tmp_path / "t.csv").read_text().count("\n") == 1


def test_organs_are_not_lesions() -> None:
    assert measure(np.ones((3, 4, 5), np.uint8)) == ()


def test_lesions_are_numbered_by_class_and_from_the_head_to_the_feet() -> None:
    found = measure(two_boxes())
    assert [lesion.lesion_id for lesion in found] == ["tumor-1", "tumor-2", "cyst-1"]
    assert [lesion.voxels for lesion in found] == [1, 24, 4]
    assert [lesion.label for lesion in found] == [2, 2, 3]


def test_volume_place_and_slices_of_a_box() -> None:
    box = measure(two_boxes())[1]
    assert box.volume_ml == pytest.approx(24 * math.prod(SPACING_MM) / 1000)
    # The mean index (x, y, z) = (4.5, 3, 1.5), times the spacing, plus the origin.
    assert box.centroid_mm == pytest.approx((10 + 4.5 * 0.8, -20 + 3 * 1.25, 30 + 1.5 * 3))
    assert (box.first_slice, box.last_slice) == (1, 2)
    assert box.key_slice in (1, 2)


def test_grey_values_and_probabilities_are_means_over_the_lesion_alone() -> None:
    labels = two_boxes()
    hu = np.full(labels.shape, -500, np.int16)
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    hu[1:3, 2:5, 3:7] = values
    box = slice(1, 10), slice(1, 11)
    fifth = np.full((9, 10), 51, np.uint8)
    sure = {
        z: SliceCertainty(*box, np.full((9, 10), level, np.uint8), fifth)
        for z, level in {1: 255, 2: 127, 6: 255, 7: 255}.items()
    }
    found = measure(labels, hu=hu, certainty=sure)[1]
    assert found.mean_hu == pytest.approx(values.mean(), abs=0.05)
    assert found.sd_hu == pytest.approx(values.std(), abs=0.05)
    assert found.mean_probability == pytest.approx((1 + 127 / 255) / 2, abs=1e-4)
    assert found.fold_agreement == pytest.approx(51 / 255)


def test_one_network_alone_agrees_with_nobody() -> None:
    assert all(lesion.fold_agreement is None for lesion in measure(two_boxes()))


def test_presence_is_the_largest_of_the_lesions_slices() -> None:
    presence = np.zeros((9, 3), np.float32)
    presence[[1, 2, 3], 1] = 0.25, 0.5, 0.75
    presence[[1, 2], 2] = 1
    assert measure(two_boxes(), presence=presence)[1].presence == pytest.approx(0.5)


def test_merged_lesions_keep_their_class_and_have_the_one_written_label() -> None:
    found = measure(two_boxes(), written={"lesion": 1})
    assert [(lesion.class_name, lesion.label) for lesion in found] == [
        ("tumor", 1),
        ("tumor", 1),
        ("cyst", 1),
    ]


def test_a_ball_has_its_diameter_in_the_slice_of_its_centre() -> None:
    z, y, x = np.mgrid[:21, :60, :80].astype(float)
    radius_mm = 20.0
    distance = np.sqrt(((z - 10) * 3) ** 2 + ((y - 30.2) * 1.25) ** 2 + ((x - 40.4) * 0.8) ** 2)
    ball = measure(np.where(distance <= radius_mm, 2, 0).astype(np.uint8))[0]
    assert ball.key_slice == 10
    assert ball.long_axis_mm == pytest.approx(40, abs=1.25)
    assert ball.short_axis_mm == pytest.approx(40, abs=2.5)
    assert ball.volume_ml == pytest.approx(4 / 3 * math.pi * 20**3 / 1000, rel=0.02)
    first, second = map(np.array, ball.long_axis_ends_mm)
    assert np.linalg.norm(first - second) == pytest.approx(ball.long_axis_mm, abs=0.02)
    assert first[2] == second[2] == pytest.approx(30 + 10 * 3)


def test_a_lesion_across_several_slabs_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measure(two_boxes())
    find = lesion_table.find_components
    monkeypatch.setattr(
        lesion_table, "find_components", lambda v, label: find(v, label, slab_voxels=1)
    )
    assert measure(two_boxes()) == expected


def test_tracking_uids_are_valid_distinct_and_depend_on_the_scan() -> None:
    found = measure(two_boxes())
    uids = [lesion.tracking_uid for lesion in found]
    assert len(set(uids)) == 3
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in uids)
    assert [lesion.tracking_uid for lesion in measure(two_boxes())] == uids


def test_a_lesion_keeps_its_uid_when_another_one_appears() -> None:
    labels = two_boxes()
    before = measure(labels)[1]
    labels[8, 10, 12] = 2
    after = measure(labels)[2]
    assert (before.lesion_id, after.lesion_id) == ("tumor-2", "tumor-3")
    assert before.tracking_uid == after.tracking_uid


def test_the_csv_has_a_line_per_lesion_and_positions_in_columns(tmp_path: Path) -> None:
    found = measure(two_boxes())
    write_lesions(tmp_path / "t.csv", found)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["lesion_id"] for row in rows] == [lesion.lesion_id for lesion in found]
    box = rows[1]
    assert float(box["centroid_x_mm"]) == found[1].centroid_mm[0]
    assert float(box["long_axis_ends_2_y_mm"]) == found[1].long_axis_ends_mm[1][1]
    assert box["fold_agreement"] == ""


def segment(scan: Path, output: Path, **changes: object) -> dict[str, object]:
    ensemble = changes.pop("ensemble", None) or make_ensemble()
    return segment_scan(
        scan,
        output,
        case_id="case",
        ensemble=ensemble,  # type: ignore[arg-type]
        options=InferenceOptions(**changes),  # type: ignore[arg-type]
    )


def test_the_table_beside_a_mask_agrees_with_mask_and_report(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    report = segment(scan, tmp_path, ensemble=make_ensemble(members=3))
    stored = json.loads((tmp_path / "case.json").read_text())
    assert stored["lesions"] == json.loads(json.dumps(report["lesions"]))
    (lesion,) = stored["lesions"]
    assert lesion["volume_ml"] == stored["classes"]["bright"]["volume_ml"]
    assert lesion["fold_agreement"] == 1.0
    assert 0.5 < lesion["mean_probability"] <= 1.0
    (row,) = csv.DictReader((tmp_path / "case.lesions.csv").read_text().splitlines())
    assert float(row["volume_ml"]) == lesion["volume_ml"]


def test_networks_that_disagree_show_in_the_table(write_scan: WriteScan, tmp_path: Path) -> None:
    """Of two networks one marks the whole box and the other only its core."""
    scan = write_scan("a.nii.gz", bright_box())
    eager, careful = make_ensemble(thresholds_hu=(-400.0,)), make_ensemble(thresholds_hu=(405.0,))
    both = replace(eager, members=(*eager.members, *careful.members), sha256=("0" * 64,) * 2)
    (lesion,) = segment(scan, tmp_path, ensemble=both)["lesions"]  # type: ignore[misc]
    assert 0.4 < lesion["fold_agreement"] < 0.6


def test_a_lesion_inside_an_organ_is_listed_and_the_organ_is_not(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    report = segment(scan, tmp_path, ensemble=lesion_in_organ())
    assert [lesion["class_name"] for lesion in report["lesions"]] == ["tumour"]  # type: ignore[attr-defined, index]


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_any_orientation_gives_the_same_table(
    axes: tuple[int, int, int], write_scan: WriteScan, tmp_path: Path
) -> None:
    """The patient is the same, so are places in it; only the UID is of the file."""
    volume, spacing_zyx, origin = bright_box(), (5.0, 0.8, 0.6), np.array([7.0, -3.0, 40.0])
    expected: dict[str, object] | None = None
    for flips in product([False, True], repeat=3):
        stored = volume.transpose(axes)
        stored = stored[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
        direction = np.zeros((3, 3))
        start = origin.copy()
        for stored_axis, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
            direction[2 - axis, 2 - stored_axis] = -1.0 if flip else 1.0
            if flip:
                start[2 - axis] += (volume.shape[axis] - 1) * spacing_zyx[axis]
        scan = write_scan(
            "a.mha",
            np.ascontiguousarray(stored),
            spacing_mm=tuple(spacing_zyx[axis] for axis in axes[::-1]),
            origin_mm=tuple(start),
            direction=tuple(direction.ravel()),
        )
        (lesion,) = segment(scan, tmp_path)["lesions"]  # type: ignore[misc]
        found = {k: v for k, v in lesion.items() if k != "tracking_uid"}
        expected = expected or found
        assert found == expected
