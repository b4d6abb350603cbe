"""A window maps its ends to 0 and 1, what lies between linearly, and clips the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samcancer.windowing import window

TISSUE = (-200, 300)


@pytest.mark.parametrize(
    ("hu", "grey"),
    [(-1024, 0.0), (-200, 0.0), (-75, 0.25), (50, 0.5), (300, 1.0), (3071, 1.0), (-32768, 0.0)],
)
def test_values_become_their_place_in_the_window(hu, grey):
    assert window(np.array([[hu]], np.float32), TISSUE).item() == pytest.approx(grey, abs=1e-7)


@pytest.mark.parametrize("shape", [(0,), (7,), (2, 3, 5), (1, 1, 2, 3)])
def test_any_shape_is_kept_as_float32(shape):
    result = window(np.zeros(shape, np.float32), TISSUE)
    assert (result.shape, result.dtype) == (shape, np.float32)


def test_the_scan_itself_is_not_changed():
    hu = np.array([-500, 0, 500], np.float32)
    window(hu, TISSUE)
    assert hu.tolist() == [-500, 0, 500]


def test_a_tensor_gives_what_an_array_gives():
    hu = np.arange(-2000, 4000, dtype=np.float32)
    grey = window(torch.from_numpy(hu), TISSUE)
    np.testing.assert_array_equal(grey.numpy(), window(hu, TISSUE))


def test_grey_values_stay_within_zero_and_one_and_never_fall():
    grey = window(np.arange(-2000, 4000, dtype=np.float32), (-1300, 300))
    assert grey.min() == 0
    assert grey.max() == 1
    assert (np.diff(grey) >= 0).all()


@pytest.mark.parametrize("empty", [(300, 300), (300, -200), (float("nan"), 300)])
def test_an_empty_window_is_refused(empty):
    with pytest.raises(ValueError, match=r"window must have lower < upper, got \(.*300"):
        window(np.zeros(3, np.float32), empty)
