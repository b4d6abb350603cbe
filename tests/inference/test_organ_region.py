from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from samcancer.inference.components import find_components, relabel_components
from samcancer.inference.organ_region import CLOSING_MM, OrganRegion, dilate

LESION = 4
ORGAN = 7
SPACING_MM = (5.0, 0.8, 0.6)


def is_touched(lesions: np.ndarray, organs: np.ndarray, reach_mm: float = 10.0) -> list[bool]:
    """For each component of the lesion, from the smallest to the largest."""
    components = find_components(lesions, LESION)
    assert components is not None
    region = OrganRegion(organs, (ORGAN,), reach_mm, SPACING_MM)
    touched = region.touched_by(lesions, components, asked=np.ones(components.count, dtype=bool))
    return [bool(touched[i]) for i in np.argsort(components.voxels)]


def maps(shape: tuple[int, int, int] = (12, 40, 60)) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)


def points_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    return np.argwhere(mask) * np.array(spacing_mm)


def near(
    mask: np.ndarray, distance_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Every voxel against every voxel of the mask."""
    if not mask.any():
        return np.zeros_like(mask)
    everywhere = points_mm(np.ones_like(mask), spacing_mm)
    nearest = cdist(everywhere, points_mm(mask, spacing_mm)).min(axis=1)
    return (nearest <= distance_mm + 1e-6).reshape(mask.shape)


def closed_and_dilated(
    organ: np.ndarray, reach_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """The region by its definition, on a grid with room for the closing on all sides."""
    room = [int(2 * CLOSING_MM / step) for step in spacing_mm]
    padded = np.pad(organ, [(r, r) for r in room])
    closed = ~near(~near(padded, CLOSING_MM, spacing_mm), CLOSING_MM, spacing_mm)
    inner = tuple(slice(r, -r) for r in room)
    return near(closed, reach_mm, spacing_mm)[inner]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    reach_mm=st.sampled_from([0.0, 3.0, 5.0, 8.5]),
    density=st.sampled_from([0.004, 0.02, 0.1]),
    slab_slices=st.integers(1, 6),
)
def test_components_stay_by_brute_force(
    seed: int, reach_mm: float, density: float, slab_slices: int
) -> None:
    spacing_mm, shape = (5.0, 4.5, 4.0), (5, 6, 7)
    generator = np.random.default_rng(seed)
    organs = np.where(generator.random(shape) < density, generator.integers(1, 4, shape), 0)
    organs = organs.astype(np.uint8)
    lesions = np.where(generator.random(shape) < 0.05, LESION, 0).astype(np.uint8)
    lesions[generator.random(shape) < 0.05] = 2
    parts, count = ndimage.label(lesions == LESION, structure=np.ones((3, 3, 3)))
    region = closed_and_dilated((organs == 1) | (organs == 3), reach_mm, spacing_mm)
    strays = [p for p in range(1, count + 1) if not region[parts == p].any()]
    expected = np.where(np.isin(parts, strays), 0, lesions)

    components = find_components(lesions, LESION, slab_voxels=slab_slices * shape[1] * shape[2])
    if components is None:
        assert count == 0
        return
    asked = np.ones(components.count, dtype=bool)
    touched = OrganRegion(organs, (1, 3), reach_mm, spacing_mm).touched_by(
        lesions, components, asked=asked
    )
    relabel_components(lesions, components, chosen=~touched)
    np.testing.assert_array_equal(lesions, expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), radius_mm=st.sampled_from([0.0, 2.9, 3.0, 7.0, 50.0]))
def test_dilation_by_brute_force(seed: int, radius_mm: float) -> None:
    mask = np.random.default_rng(seed).random((5, 6, 7)) < 0.03
    np.testing.assert_array_equal(
        dilate(mask, radius_mm, (3.0, 0.9, 2.0)), near(mask, radius_mm, (3.0, 0.9, 2.0))
    )


@pytest.mark.parametrize(
    ("offset", "stays"),
    [
        ((2, 0, 0), True),  # 10 mm
        ((3, 0, 0), False),  # 15 mm
        ((0, 12, 0), True),  # 9.6 mm
        ((0, 13, 0), False),  # 10.4 mm
        ((0, 0, 16), True),  # 9.6 mm
        ((0, 0, 17), False),  # 10.2 mm
        ((1, 7, 11), True),  # sqrt(5^2 + 5.6^2 + 6.6^2) = 9.998 mm
        ((1, 8, 11), False),  # 10.4 mm
    ],
)
def test_the_distance_is_in_mm_along_every_axis(offset: tuple[int, int, int], stays: bool) -> None:
    lesions, organs = maps()
    organs[4, 10, 20] = ORGAN
    lesions[4 + offset[0], 10 + offset[1], 20 + offset[2]] = LESION
    assert is_touched(lesions, organs) == [stays]


@pytest.mark.parametrize(("gap", "stays"), [(8, True), (20, False)])
def test_closing_fills_gaps_of_less_than_twice_its_radius(gap: int, stays: bool) -> None:
    """Gaps of 4.8 and 12 mm between plates; without closing neither middle is within 1 mm."""
    lesions, organs = maps()
    organs[:, :, 20 - 6 : 20] = organs[:, :, 20 + gap : 26 + gap] = ORGAN
    lesions[6, 20, 20 + gap // 2] = LESION
    assert is_touched(lesions, organs, reach_mm=1.0) == [stays]


def test_a_component_that_touches_stays_whole_however_far_it_reaches() -> None:
    lesions, organs = maps()
    organs[4:6, 10:14, 5:10] = ORGAN
    lesions[4, 12, 9:58] = LESION  # out to 28.8 mm from the organ
    lesions[4, 30, 50] = LESION
    assert is_touched(lesions, organs) == [False, True]


@pytest.mark.parametrize("corner", [0, -1])
def test_organ_and_lesion_at_the_border(corner: int) -> None:
    lesions, organs = maps((3, 9, 30))
    organs[corner, corner, corner] = ORGAN
    lesions[corner, corner, 2 if corner == 0 else -3] = LESION  # 1.2 mm away
    lesions[corner, corner, -1 if corner == 0 else 0] = LESION  # 17.4 mm away
    components = find_components(lesions, LESION)
    assert components is not None
    touched = OrganRegion(organs, (ORGAN,), 3.0, SPACING_MM).touched_by(
        lesions, components, asked=np.array([True, True])
    )
    relabel_components(lesions, components, chosen=~touched)
    assert np.argwhere(lesions)[:, 2].tolist() == [2 if corner == 0 else 27]


def test_an_organ_that_fills_the_scan_holds_everything() -> None:
    lesions, organs = maps((2, 3, 4))
    organs[:] = ORGAN
    lesions[:] = LESION
    assert is_touched(lesions, organs, reach_mm=0.0) == [True]


def test_an_absent_organ_holds_nothing() -> None:
    lesions, organs = maps((2, 3, 4))
    organs[:] = ORGAN + 1
    lesions[1, 1, 1] = LESION
    assert is_touched(lesions, organs, reach_mm=1000.0) == [False]


def test_components_that_were_not_asked_about_are_answered_by_false() -> None:
    lesions, organs = maps((2, 3, 4))
    organs[:] = ORGAN
    lesions[1, 1, 1] = LESION
    components = find_components(lesions, LESION)
    assert components is not None
    region = OrganRegion(organs, (ORGAN,), 5.0, SPACING_MM)
    asked = np.array([False])
    assert not region.touched_by(lesions, components, asked=asked).any()


def test_a_hole_is_closed_even_when_the_organ_reaches_beyond_what_is_read() -> None:
    """2.4 mm wide, through a plate of 25 mm; the plate is wider than the margins."""
    lesions, organs = maps((7, 60, 120))
    organs[1:6] = ORGAN
    organs[1:6, 30, 60:64] = 0
    lesions[3, 30, 62] = LESION
    assert is_touched(lesions, organs, reach_mm=0.0) == [True]
