from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_prep.rtstruct import fill_polygon
from samcancer.volume_io.mask_outlines import mask_outlines


def filled(mask: np.ndarray) -> np.ndarray:
    found = np.zeros(mask.shape, bool)
    for outline in mask_outlines(mask):
        found ^= fill_polygon(outline.points, mask.shape)
    return found


def test_a_voxel_is_outlined_by_its_four_corners() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 3] = True
    (outline,) = mask_outlines(mask)
    assert {tuple(p) for p in outline.points} == {(2.5, 0.5), (3.5, 0.5), (3.5, 1.5), (2.5, 1.5)}
    assert not outline.is_hole


def test_straight_edges_have_no_points_between_their_ends() -> None:
    (outline,) = mask_outlines(np.ones((30, 50), bool))
    assert {tuple(p) for p in outline.points} == {
        (-0.5, -0.5),
        (49.5, -0.5),
        (49.5, 29.5),
        (-0.5, 29.5),
    }


def test_an_empty_mask_has_no_outline() -> None:
    assert mask_outlines(np.zeros((3, 4), bool)) == []


def test_a_hole_and_an_island_in_it_have_outlines_of_their_own() -> None:
    mask = np.ones((7, 9), bool)
    mask[1:6, 2:7] = False
    mask[3, 4] = True
    assert sorted(outline.is_hole for outline in mask_outlines(mask)) == [False, False, True]
    np.testing.assert_array_equal(filled(mask), mask)


@pytest.mark.parametrize("seed", range(8))
def test_any_mask_comes_back_and_each_component_has_one_outer_outline(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(100):
        mask = random.random(random.integers(1, 12, size=2)) < random.random()
        np.testing.assert_array_equal(filled(mask), mask)
        outer = sum(not outline.is_hole for outline in mask_outlines(mask))
        assert outer == ndimage.label(mask)[1]  # voxels that touch by an edge
