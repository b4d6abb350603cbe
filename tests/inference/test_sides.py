"""Columns run to the patient's left, so a right organ has the smaller columns."""

from __future__ import annotations

import numpy as np
import pytest

from samcancer.inference.sides import SideChanges, settle_sides

RIGHT, LEFT = 3, 5
COLUMN_MM = 4.0
SHAPE = (6, 30, 61)

RIGHT_KIDNEY = (slice(1, 5), slice(12, 18), slice(8, 13))
"""120 voxels, centre at column 10."""
LEFT_KIDNEY = (slice(1, 5), slice(12, 18), slice(38, 42))
"""96 voxels, centre at column 39.5."""


def patient(first: int = 3, last: int = 46) -> np.ndarray:
    """A body between two columns, in air; by default off the centre, its middle at 24.5."""
    volume = np.full(SHAPE, -1000, dtype=np.int16)
    volume[:, 4:26, first : last + 1] = 40
    return volume


def kidneys(right: int = RIGHT, left: int = LEFT) -> np.ndarray:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[RIGHT_KIDNEY] = right
    values[LEFT_KIDNEY] = left
    return values


def settle(values: np.ndarray, volume: np.ndarray) -> SideChanges:
    return settle_sides(values, right=RIGHT, left=LEFT, volume_hu=volume, column_mm=COLUMN_MM)


def moved(changes: SideChanges) -> tuple[list[int], list[int]]:
    return changes.to_left.tolist(), changes.to_right.tolist()


def test_organs_on_their_sides_stay() -> None:
    values = kidneys()
    assert moved(settle(values, patient())) == ([], [])
    np.testing.assert_array_equal(values, kidneys())


def test_a_left_organ_that_is_called_right_changes_sides() -> None:
    values = kidneys(left=RIGHT)
    assert moved(settle(values, patient())) == ([96], [])
    np.testing.assert_array_equal(values, kidneys())


def test_exchanged_sides_are_exchanged_back() -> None:
    values = kidneys(right=LEFT, left=RIGHT)
    assert moved(settle(values, patient())) == ([96], [120])
    np.testing.assert_array_equal(values, kidneys())


def test_the_middle_is_that_of_the_body_not_of_the_image() -> None:
    """The image's middle is column 30; the body's is 44, and both organs lie right of it."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[2, 15, 33:36] = LEFT
    assert moved(settle(values, patient(29, 59))) == ([], [3])
    assert values[2, 15, 34] == RIGHT


@pytest.mark.parametrize(("column", "stays"), [(27, True), (28, False)])
def test_what_lies_about_the_middle_stays(column: int, stays: bool) -> None:
    """10 and 14 mm left of the middle at 24.5; the first is not beyond the margin of 10 mm."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[2, 15, column] = RIGHT
    settle(values, patient())
    assert values[2, 15, column] == (RIGHT if stays else LEFT)


def test_a_component_is_moved_whole_by_its_centre() -> None:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[2, 15, 10:44] = LEFT  # centre at 26.5, within 10 mm of the middle
    values[4, 15, 20:44] = RIGHT  # centre at 31.5, reaches over the middle
    assert moved(settle(values, patient())) == ([24], [])
    assert (values[4, 15, 20:44] == LEFT).all()


def test_a_couch_and_an_arm_do_not_shift_the_middle() -> None:
    volume = patient()
    volume[:, 27, 2:59] = 100
    volume[:, 10:14, 50:57] = 40
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[2, 15, 28] = RIGHT
    assert moved(settle(values, volume)) == ([1], [])


@pytest.mark.parametrize("cut", [patient(0, 40), patient(20, 60), patient(0, 60)])
def test_in_a_cut_field_of_view_the_pair_decides(cut: np.ndarray) -> None:
    values = kidneys()
    values[2, 3, 44] = RIGHT
    values[2, 3, 6:8] = LEFT
    assert moved(settle(values, cut)) == ([1], [2])
    assert values[2, 3, 44] == LEFT


@pytest.mark.parametrize("values", [kidneys(left=RIGHT), kidneys(right=LEFT, left=RIGHT)])
def test_nothing_is_decided_where_neither_body_nor_pair_tells(values: np.ndarray) -> None:
    before = values.copy()
    changes = settle(values, np.full(SHAPE, -1000, dtype=np.int16))
    assert changes.obstacle == "the patient's mid-plane is not known"
    assert moved(changes) == ([], [])
    np.testing.assert_array_equal(values, before)


def test_a_single_voxel_at_the_border_changes_sides() -> None:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[-1, -1, -1] = RIGHT
    assert moved(settle(values, patient())) == ([1], [])
    assert values[-1, -1, -1] == LEFT


def test_a_label_that_fills_the_scan_stays() -> None:
    """Its centre is the scan's, column 30, and so is the middle of this body."""
    values = np.full(SHAPE, RIGHT, dtype=np.uint8)
    assert moved(settle(values, patient(1, 59))) == ([], [])


def test_a_pair_without_voxels_has_nothing_to_settle() -> None:
    values = np.full(SHAPE, 1, dtype=np.uint8)
    assert settle(values, patient()).obstacle is None
    assert (values == 1).all()


def test_a_strided_view_is_changed_in_place() -> None:
    stored = np.ascontiguousarray(kidneys(left=RIGHT)[:, :, ::-1].transpose(2, 0, 1))
    view = stored.transpose(1, 2, 0)[:, :, ::-1]
    settle(view, patient())
    np.testing.assert_array_equal(view, kidneys())
