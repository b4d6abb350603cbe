"""Outlines enclose exactly the mask: areas and holes by the shoelace formula."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samcancer.report.outlines import outlines, svg_path


def signed_area(loop: list[tuple[int, int]]) -> float:
    x, y = np.array(loop, dtype=float).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_one_voxel_is_a_unit_square_at_its_place() -> None:
    mask = np.zeros((4, 7), dtype=bool)
    mask[2, 5] = True
    (loop,) = outlines(mask)
    assert sorted(loop) == [(5, 2), (5, 3), (6, 2), (6, 3)]


def test_a_full_mask_is_outlined_along_the_image_border() -> None:
    (loop,) = outlines(np.ones((3, 5), dtype=bool))
    assert sorted(loop) == [(0, 0), (0, 3), (5, 0), (5, 3)]


def test_an_empty_mask_has_no_outline() -> None:
    assert outlines(np.zeros((3, 5), dtype=bool)) == []


def test_a_hole_is_a_loop_of_the_other_direction() -> None:
    mask = np.ones((5, 6), dtype=bool)
    mask[2, 2:4] = False
    areas = sorted(signed_area(loop) for loop in outlines(mask))
    assert areas == [-2.0, 30.0]


def test_voxels_that_touch_by_a_corner_are_traced_apart() -> None:
    areas = [signed_area(loop) for loop in outlines(np.eye(3, dtype=bool))]
    assert areas == [1.0, 1.0, 1.0]


@given(st.lists(st.booleans(), min_size=42, max_size=42))
@settings(max_examples=100, deadline=None)
def test_the_enclosed_area_is_the_number_of_voxels(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(6, 7)
    assert sum(signed_area(loop) for loop in outlines(mask)) == mask.sum()


def test_the_svg_path_goes_round_and_closes() -> None:
    mask = np.zeros((3, 6), dtype=bool)
    mask[1, 2:5] = True
    assert svg_path(outlines(mask)) in (
        "M2 1h3v1h-3z",
        "M5 1v1h-3v-1z",
        "M5 2h-3v-1h3z",
        "M2 2v-1h3v1z",
    )


def test_no_loops_are_an_empty_path() -> None:
    assert svg_path([]) == ""
