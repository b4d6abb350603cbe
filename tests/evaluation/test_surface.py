from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from samcancer.evaluation.surface import surface_dice


def deepmind(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
) -> float:
    """The package's own functions, called as the FLARE script calls them, in x, y, z order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports from old SciPy namespaces
        distances = surface_distance.compute_surface_distances(
            reference.T, prediction.T, spacing_mm[::-1]
        )
    return float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm))


def blobs(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    field = generator.normal(size=shape)
    for axis in range(3):
        field = field + np.roll(field, 1, axis) + np.roll(field, 2, axis)
    shifted = np.roll(field, tuple(generator.integers(-2, 3, 3)), (0, 1, 2))
    level = np.quantile(field, generator.uniform(0.3, 0.95))
    return field > level, shifted + 0.5 * generator.normal(size=shape) > level


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spacing_mm=st.tuples(*[st.sampled_from([0.4, 0.5, 0.7, 0.78125, 1.0, 2.0, 3.27, 5.0])] * 3),
    tolerance_mm=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
)
def test_equals_the_deepmind_package(
    seed: int, spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> None:
    reference, prediction = blobs(seed, (7, 11, 9))
    ours = surface_dice(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    theirs = deepmind(reference, prediction, spacing_mm, tolerance_mm)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_air_around_the_masks_changes_nothing() -> None:
    reference, prediction = blobs(3, (6, 8, 7))
    padding = ((4, 1), (0, 9), (3, 0))
    options = {"spacing_mm": (3.0, 0.7, 0.8), "tolerance_mm": 2.0}
    assert surface_dice(reference, prediction, **options) == surface_dice(
        np.pad(reference, padding), np.pad(prediction, padding), **options
    )


def cube(start: int, side: int = 6, size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size, size), dtype=bool)
    mask[start : start + side, 7 : 7 + side, 7 : 7 + side] = True
    return mask


@pytest.mark.parametrize(("spacing_mm", "shift"), [((2.0, 1.0, 1.0), 1), ((0.5, 3.0, 3.0), 4)])
def test_a_shift_within_the_tolerance_is_perfect(
    spacing_mm: tuple[float, float, float], shift: int
) -> None:
    assert shift * spacing_mm[0] == 2.0
    value = surface_dice(cube(4), cube(4 + shift), spacing_mm=spacing_mm, tolerance_mm=2.0)
    assert value == 1.0


def test_far_apart_masks_have_none() -> None:
    value = surface_dice(cube(0), cube(14), spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=2.0)
    assert value == 0.0


def test_a_long_rod_agrees_by_the_share_of_its_common_length() -> None:
    # Two rods share a stretch of b of their lengths a; only what lies beyond the tolerance of the
    # other's end disagrees, so the share of the mantle within reach is (b + tolerance) / a.
    length, common, tolerance_mm = 400, 200, 10.0
    first = np.zeros((700, 8, 8), dtype=bool)
    second = np.zeros_like(first)
    first[50 : 50 + length, 2:6, 2:6] = True
    second[50 + length - common : 50 + 2 * length - common, 2:6, 2:6] = True
    value = surface_dice(first, second, spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=tolerance_mm)
    assert value == pytest.approx((common + tolerance_mm) / length, abs=0.01)


def test_spheres_of_radii_one_tolerance_apart_agree_fully_and_farther_not_at_all() -> None:
    z, y, x = np.mgrid[-16:17, -16:17, -16:17]
    radius = np.sqrt((z * 1.0) ** 2 + (y * 1.0) ** 2 + (x * 1.0) ** 2)
    small, near, far = radius <= 10, radius <= 11, radius <= 15
    spacing_mm = (1.0, 1.0, 1.0)
    assert surface_dice(small, near, spacing_mm=spacing_mm, tolerance_mm=math.sqrt(3) + 1) == 1.0
    assert surface_dice(small, far, spacing_mm=spacing_mm, tolerance_mm=2.0) == 0.0


def test_single_voxels_at_the_border_of_the_volume_are_scored() -> None:
    first = np.zeros((3, 4, 5), dtype=bool)
    second = np.zeros_like(first)
    first[0, 0, 0] = second[0, 0, 1] = True
    spacing_mm = (5.0, 1.0, 1.0)
    expected = deepmind(first, second, spacing_mm, 0.5)
    assert surface_dice(first, second, spacing_mm=spacing_mm, tolerance_mm=0.5) == expected
    assert surface_dice(first, second, spacing_mm=spacing_mm, tolerance_mm=1.0) == 1.0


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="surface of an empty mask"):
        surface_dice(cube(1), np.zeros((20, 20, 20), bool), spacing_mm=(1, 1, 1), tolerance_mm=2.0)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        surface_dice(cube(1), cube(1, size=21), spacing_mm=(1, 1, 1), tolerance_mm=2.0)
