"""Resizing in plane: exact where nothing changes, air outside, and no lesion ever lost."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from samcancer.inplane import AIR_HU, InPlaneGrid, resize_mask, resize_slices

ANISOTROPIC = InPlaneGrid(rows=90, columns=140, row_spacing_mm=0.9, column_spacing_mm=0.7, size=64)


def apply(
    matrices: tuple[NDArray[np.float32], ...], x: NDArray[np.floating]
) -> NDArray[np.float32]:
    row, column = matrices
    return np.asarray(row @ x.astype(np.float32) @ column.T)


def blob(rows: int, columns: int) -> NDArray[np.bool_]:
    """A tilted ellipse of about a quarter of the slice, off centre."""
    r, c = np.mgrid[:rows, :columns]
    u, v = r / rows - 0.45, c / columns - 0.55
    return np.asarray((u + 0.3 * v) ** 2 / 0.09 + (v - 0.2 * u) ** 2 / 0.05 < 1)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@st.composite
def masks_and_grids(draw: st.DrawFn) -> tuple[NDArray[np.bool_], InPlaneGrid]:
    rows, columns, size = (draw(st.integers(1, 48)) for _ in range(3))
    spacings = [draw(st.floats(0.3, 3.0)) for _ in range(2)]
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0, 0.002, 0.1, 0.6, 1]))
    mask = np.random.default_rng(seed).random((2, rows, columns)) < density
    return mask, InPlaneGrid(rows, columns, spacings[0], spacings[1], size)


def test_same_square_size_is_the_identity_to_the_bit() -> None:
    grid = InPlaneGrid(60, 60, 1.2, 1.2, 60)
    hu = np.random.default_rng(0).integers(-1024, 3000, (3, 60, 60)).astype(np.int16)
    mask = hu > 500
    np.testing.assert_array_equal(resize_slices(hu, grid), hu)
    np.testing.assert_array_equal(resize_mask(mask, grid), mask)
    logits = np.random.default_rng(1).normal(size=(60, 60)).astype(np.float32)
    np.testing.assert_array_equal(apply(grid.logit_matrices(), logits), logits)


def test_the_field_of_view_is_padded_to_a_square_with_air_on_both_sides() -> None:
    # 40 rows of 1 mm beside 80 columns of 1 mm: a quarter of 80 mm is air above and below.
    grid = InPlaneGrid(40, 80, 1.0, 1.0, 80)
    resized = resize_slices(np.full((1, 40, 80), 50, np.int16), grid)[0]
    assert grid.pixel_mm == 1.0
    assert (resized[20:60] == 50).all()
    assert (resized[:20] == AIR_HU).all()
    assert (resized[60:] == AIR_HU).all()


def test_pixels_are_square_in_mm() -> None:
    assert ANISOTROPIC.pixel_mm == pytest.approx(140 * 0.7 / 64)
    # A rectangle of 63 x 63 mm stays as high as it is wide.
    mask = np.zeros((1, 90, 140), np.bool_)
    mask[0, 10:80, 20:110] = True
    resized = resize_mask(mask, ANISOTROPIC)[0]
    height, width = resized.any(axis=1).sum(), resized.any(axis=0).sum()
    assert abs(int(height) - 63 / ANISOTROPIC.pixel_mm) <= 1
    assert abs(int(width) - 63 / ANISOTROPIC.pixel_mm) <= 1


@pytest.mark.parametrize("size", [16, 45, 128, 200])
def test_a_constant_slice_stays_constant_inside_and_edges_are_not_darkened(size: int) -> None:
    grid = InPlaneGrid(100, 100, 0.8, 0.8, size)
    hu = np.full((1, 100, 100), 73, np.int16)
    np.testing.assert_array_equal(resize_slices(hu, grid), np.full((1, size, size), 73))


def test_downsampling_is_antialiased() -> None:
    # Stripes of one pixel: sampling without a filter would show stripes or a single value.
    hu = np.zeros((1, 128, 128), np.int16)
    hu[:, :, ::2] = 1000
    inner = resize_slices(hu, InPlaneGrid(128, 128, 1.0, 1.0, 32))[0, 2:-2, 2:-2]
    assert np.abs(inner.astype(np.int64) - 500).max() <= 10


def test_matrices_are_shares_and_averages() -> None:
    for matrix in ANISOTROPIC.image_matrices():
        assert matrix.min() >= 0
        assert matrix.sum(axis=1).max() <= 1 + 1e-5
    # 81 of 98 mm are covered by rows: so much of all the rows' weight.
    assert ANISOTROPIC.image_matrices()[0].sum() == pytest.approx(64 * 81 / 98, rel=1e-4)
    for matrix in ANISOTROPIC.logit_matrices():
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "grid",
    [
        InPlaneGrid(512, 512, 0.8, 0.8, 256),
        InPlaneGrid(512, 400, 0.7, 0.9, 128),
        InPlaneGrid(90, 140, 0.9, 0.7, 256),
    ],
    ids=["half", "anisotropic", "enlarged"],
)
def test_mask_down_and_logits_up_close_the_loop(grid: InPlaneGrid) -> None:
    mask = blob(grid.rows, grid.columns)
    small = resize_mask(mask[None], grid)[0]
    back = apply(grid.logit_matrices(), np.where(small, 4.0, -4.0)) > 0
    assert back.shape == mask.shape
    assert dice(back, mask) > 0.97


def test_a_point_comes_back_where_it_was() -> None:
    grid = InPlaneGrid(300, 200, 0.5, 0.9, 100)
    mask = np.zeros((1, 300, 200), np.bool_)
    mask[0, 40:52, 160:166] = True
    back = apply(grid.logit_matrices(), resize_mask(mask, grid)[0].astype(np.float32))
    np.testing.assert_allclose(ndimage.center_of_mass(back), (45.5, 162.5), atol=1.0)


@settings(max_examples=200, deadline=None)
@given(masks_and_grids())
def test_every_component_keeps_a_pixel(case: tuple[NDArray[np.bool_], InPlaneGrid]) -> None:
    mask, grid = case
    resized = resize_mask(mask, grid)
    assert resized.shape == (2, grid.size, grid.size)
    for source, result in zip(mask, resized, strict=True):
        assert source.any() == result.any()
        labels, count = ndimage.label(source)
        row, column = grid.mask_matrices()
        for index in range(1, count + 1):
            touched = row @ (labels == index).astype(np.float32) @ column.T > 0
            assert (touched & result).any()


@settings(max_examples=50, deadline=None)
@given(masks_and_grids())
def test_no_pixel_is_set_where_the_mask_is_not(
    case: tuple[NDArray[np.bool_], InPlaneGrid],
) -> None:
    mask, grid = case
    row, column = grid.mask_matrices()
    for source, result in zip(mask, resize_mask(mask, grid), strict=True):
        assert ((row @ source.astype(np.float32) @ column.T)[result] > 0).all()


@pytest.mark.parametrize("place", [(0, 0), (0, 699), (511, 0), (511, 699), (255, 350)])
def test_one_voxel_survives_at_the_border_and_inside(place: tuple[int, int]) -> None:
    mask = np.zeros((1, 512, 700), np.bool_)
    mask[0][place] = True
    assert resize_mask(mask, InPlaneGrid(512, 700, 0.8, 0.6, 64)).sum() == 1


def test_empty_stays_empty_and_full_is_the_field_of_view() -> None:
    grid = InPlaneGrid(40, 80, 1.0, 1.0, 40)
    assert not resize_mask(np.zeros((2, 40, 80), np.bool_), grid).any()
    full = resize_mask(np.ones((1, 40, 80), np.bool_), grid)[0]
    assert full[10:30].all()
    assert full.sum() == 20 * 40


def test_extreme_values_do_not_wrap_around() -> None:
    hu = np.full((1, 9, 9), 32767, np.int16)
    hu[0, 4, 4] = -32768
    grid = InPlaneGrid(9, 9, 1.0, 1.0, 27)
    resized = resize_slices(hu, grid)
    assert resized[0, 0, 0] == 32767
    assert resized[0, 13, 13] == -32768


def test_a_grid_reads_back_from_json_data() -> None:
    assert InPlaneGrid.from_dict(ANISOTROPIC.to_dict()) == ANISOTROPIC


@pytest.mark.parametrize("bad", [(0, 5, 1, 1, 4), (5, 5, float("nan"), 1, 4), (5, 5, 1, -1, 4)])
def test_a_grid_without_extent_is_refused(bad: tuple[int, int, float, float, int]) -> None:
    with pytest.raises(ValueError, match="an in-plane grid needs positive numbers"):
        InPlaneGrid(*bad)


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(slices, 90, 140\) for this grid"):
        resize_slices(np.zeros((1, 140, 90), np.int16), ANISOTROPIC)


def test_a_slice_takes_a_few_milliseconds() -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (4, 512, 512)).astype(np.int16)
    grid = InPlaneGrid(512, 512, 0.8, 0.8, 256)
    resize_slices(hu, grid)
    started = time.process_time()
    resize_slices(hu, grid)
    assert (time.process_time() - started) / len(hu) < 0.02


@pytest.mark.parametrize(("row", "column"), [(0, 0), (89, 139), (40, 100)])
def test_a_place_lies_on_the_pixel_that_its_voxel_is_resized_to(row: int, column: int) -> None:
    mask = np.zeros((1, ANISOTROPIC.rows, ANISOTROPIC.columns), dtype=bool)
    mask[0, row, column] = True
    x, y = ANISOTROPIC.pixel_of(column, row)
    assert resize_mask(mask, ANISOTROPIC)[0, round(y), round(x)]
