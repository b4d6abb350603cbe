"""Axes and their matrices: sums, centres, and the nearest sample."""

from __future__ import annotations

import numpy as np
import pytest

from samcancer.resampling import Axis

AXES = [Axis(1, 5.0, 1.5), Axis(7, 2.5, 1.5), Axis(40, 0.8, 1.5), Axis(12, 1.5, 1.5)]


@pytest.mark.parametrize("axis", AXES)
def test_constant_values_stay_constant_both_ways(axis: Axis) -> None:
    np.testing.assert_allclose(axis.forward().sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(axis.backward().sum(axis=1), 1, atol=1e-6)
    assert axis.forward().shape == axis.backward().shape[::-1] == (axis.size, axis.count)


def test_equal_spacings_change_nothing() -> None:
    axis = Axis(12, 1.5, 1.5)
    np.testing.assert_allclose(axis.forward(), np.eye(12), atol=1e-6)
    np.testing.assert_array_equal(axis.nearest(), np.arange(12))


@pytest.mark.parametrize("axis", AXES)
def test_a_ramp_keeps_its_value_in_the_middle(axis: Axis) -> None:
    """Both grids have the same centre, where linear interpolation of a ramp is exact."""
    ramp = (np.arange(axis.count) + 0.5 - axis.count / 2) * axis.spacing_mm
    resampled = axis.forward() @ ramp
    target = (np.arange(axis.size) + 0.5 - axis.size / 2) * axis.target_mm
    inner = slice(axis.size // 3, axis.size - axis.size // 3)
    if axis.count > 2:
        # the antialiasing filter is cut off at whole samples, which costs up to 1 %
        rtol = 0.01 if axis.target_mm > axis.spacing_mm else 1e-6
        np.testing.assert_allclose(resampled[inner], target[inner], rtol=rtol, atol=1e-4)


def test_labels_take_the_sample_that_holds_their_centre() -> None:
    """Three samples of 3 mm into nine of 1 mm."""
    np.testing.assert_array_equal(Axis(3, 3.0, 1.0).nearest(), np.repeat([0, 1, 2], 3))


def test_a_source_sample_is_found_again_in_the_target() -> None:
    """The centres of 3 mm samples lie at 1, 4 and 7 among nine of 1 mm."""
    assert [Axis(3, 3.0, 1.0).place(i) for i in range(3)] == [1.0, 4.0, 7.0]
