"""The building blocks of the phantoms: draws, fields on a mesh, and shares of voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data_prep.phantoms.canvas import Canvas, Tissue, mean_of_subslices, solid_of, subslices
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.fields import (
    Box,
    Frame,
    Noise,
    Solid,
    ellipsoid,
    interpolate,
    profile,
    resample,
    smooth_max,
    smooth_min,
    tube,
)

FRAME = Frame(
    slices=21,
    size=64,
    slice_mm=3.0,
    pixel_mm=1.5,
    bottom_mm=-30.0,
    centre_xy_mm=(0.75, -0.75),
    scale=(1.0, 1.0, 1.0),
)


def test_a_child_stream_does_not_depend_on_what_its_parent_drew() -> None:
    fresh, used = Dice(5), Dice(5)
    used.units(1000)
    assert fresh.child("liver").unit() == used.child("liver").unit()
    assert fresh.child("liver").unit() != fresh.child("spleen").unit()


def test_draws_stay_in_their_range_and_fill_it() -> None:
    dice = Dice(1)
    drawn = [dice.uniform(-2.0, 3.0) for _ in range(2000)]
    assert -2.0 <= min(drawn) < -1.9
    assert 2.9 < max(drawn) < 3.0
    whole = {dice.integer(4, 7) for _ in range(200)}
    assert whole == {4, 5, 6, 7}


def test_logarithmic_draws_spend_a_third_of_their_time_in_each_decade() -> None:
    dice = Dice(2)
    drawn = np.array([dice.log_uniform(0.1, 100.0) for _ in range(6000)])
    shares = np.histogram(np.log10(drawn), bins=[-1, 0, 1, 2])[0] / drawn.size
    deviation = math.sqrt(1 / 3 * 2 / 3 / drawn.size)
    np.testing.assert_allclose(shares, 1 / 3, atol=5 * deviation)


def test_normal_draws_have_mean_zero_and_deviation_one() -> None:
    drawn = Dice(3).normals(100_001)
    assert drawn.shape == (100_001,)
    assert abs(float(drawn.mean())) < 5 / math.sqrt(drawn.size)
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02)


def test_directions_have_unit_length_and_no_preferred_side() -> None:
    dice = Dice(4)
    vectors = np.array([dice.direction() for _ in range(4000)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    np.testing.assert_allclose(vectors.mean(axis=0), 0.0, atol=5 / math.sqrt(3 * 4000))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_mesh_holds_the_true_coordinates_of_its_pixels(step: int) -> None:
    mesh = FRAME.mesh(step, Box((-20.0, 25.0), (-10.0, 40.0), (-12.0, 15.0)))
    assert mesh.rows.start % step == mesh.rows.stop % step == 0
    assert mesh.shape[2] == (mesh.columns.stop - mesh.columns.start) // step + 1
    first_x_mm = (mesh.columns.start - 31.5) * 1.5 + 0.75
    first_y_mm = (mesh.rows.start - 31.5) * 1.5 - 0.75
    assert float(mesh.x[0, 0, 0]) == pytest.approx(first_x_mm)
    assert float(mesh.y[0, 0, 0]) == pytest.approx(first_y_mm)
    assert float(mesh.z[0, 0, 0]) == pytest.approx(-30.0 + 3.0 * mesh.slices.start)
    assert float(mesh.x[0, 0, 1] - mesh.x[0, 0, 0]) == pytest.approx(1.5 * step)


@pytest.mark.parametrize(
    "box",
    [
        Box((500.0, 600.0), (-5.0, 5.0), (-5.0, 5.0)),
        Box((-5.0, 5.0), (-600.0, -500.0), (-5.0, 5.0)),
        Box((-5.0, 5.0), (-5.0, 5.0), (200.0, 300.0)),
        Box((-5.0, 5.0), (-5.0, 5.0), (-300.0, -200.0)),
    ],
)
def test_a_box_outside_the_scan_gives_an_empty_mesh(box: Box) -> None:
    assert FRAME.mesh(4, box).empty


def test_a_spheres_distance_is_exact_along_its_axes() -> None:
    mesh = FRAME.mesh(1)
    distance = ellipsoid(mesh, (0.0, 0.0, 0.0), (20.0, 20.0, 20.0))
    true = np.sqrt(mesh.x**2 + mesh.y**2 + mesh.z**2) - 20.0
    far_from_centre = true > -18.0
    np.testing.assert_allclose(distance[far_from_centre], true[far_from_centre], atol=1e-3)


def test_a_tube_of_one_link_is_a_capsule() -> None:
    mesh = FRAME.mesh(2)
    distance = tube(mesh, ((-10.0, 0.0, 0.0), (10.0, 0.0, 0.0)), (6.0, 6.0))
    past_end = np.maximum(np.abs(mesh.x) - 10.0, 0.0)
    true = np.sqrt(past_end**2 + mesh.y**2 + mesh.z**2) - 6.0
    near = true < 8.0
    np.testing.assert_allclose(distance[near], true[near], atol=1e-3)


def test_smooth_joins_equal_the_sharp_ones_away_from_the_crease() -> None:
    a = np.array([-10.0, 0.0, 10.0], np.float32)
    b = np.array([5.0, 0.0, -7.0], np.float32)
    np.testing.assert_allclose(smooth_min(a, b, 4.0), [-10.0, -1.0, -7.0])
    np.testing.assert_allclose(smooth_max(a, b, 4.0), [5.0, 1.0, 10.0])


def test_interpolation_is_linear_between_and_constant_past_the_ends() -> None:
    values = np.array([0.0, 10.0, 40.0], np.float32).reshape(1, 1, 3)
    at = np.array([-1.0, 0.25, 1.5, 2.0, 9.0])
    found = interpolate(values, at, axis=2)
    np.testing.assert_allclose(found[0, 0], [0.0, 2.5, 25.0, 40.0, 40.0])


def test_resampling_a_linear_field_onto_another_mesh_is_exact_inside() -> None:
    coarse, fine = FRAME.mesh(4), FRAME.mesh(2, Box((-20, 20), (-20, 20), (-15, 15)))
    found = resample(solid_of(coarse, 2.0 * coarse.x - coarse.y + 0.5 * coarse.z), fine)
    np.testing.assert_allclose(found, 2.0 * fine.x - fine.y + 0.5 * fine.z, atol=1e-3)


def test_a_profile_passes_straight_stretches_exactly_and_repeats_its_ends() -> None:
    z = np.array([-500.0, 50.0, 500.0], np.float32)
    np.testing.assert_allclose(profile(z, ((0.0, 1.0), (100.0, 3.0))), [1.0, 2.0, 3.0], atol=1e-6)


def test_noise_is_fixed_in_space_whatever_grid_it_is_asked_on() -> None:
    noise = Noise(Dice(6), 10.0)
    whole, part = FRAME.mesh(2), FRAME.mesh(2, Box((-12, 30), (-24, 6), (-9, 12)))
    rows = slice(part.rows.start // 2, part.rows.stop // 2 + 1)
    columns = slice(part.columns.start // 2, part.columns.stop // 2 + 1)
    values = noise.on(whole)
    np.testing.assert_array_equal(values[part.slices, rows, columns], noise.on(part))
    assert -1.0 <= values.min() < -0.3
    assert 0.3 < values.max() <= 1.0


@pytest.mark.parametrize("step", [1, 2, 4])
def test_painting_a_sphere_fills_its_volume(step: int) -> None:
    canvas = Canvas(FRAME, background_hu=0.0, blur_mm=1.5)
    mesh = FRAME.mesh(step)
    canvas.paint(Solid(mesh, ellipsoid(mesh, (3.0, -2.0, 1.0), (21.0, 21.0, 21.0))), 100.0)
    filled_mm3 = float(canvas.hu.sum()) / 100.0 * 1.5 * 1.5 * 3.0
    flattening_mm = 2 * (step * 1.5) ** 2 / (8 * 21.0)
    slack = 0.01 + 3 * flattening_mm / 21.0
    assert filled_mm3 == pytest.approx(4.0 / 3.0 * math.pi * 21.0**3, rel=slack)


def test_a_voxel_is_named_after_what_fills_half_of_it() -> None:
    canvas = Canvas(FRAME, background_hu=-1000.0, blur_mm=1.5)
    mesh = FRAME.mesh(2)
    canvas.paint(solid_of(mesh, mesh.x), 50.0, Tissue.MUSCLE)
    x_mm = FRAME.x_mm(np.arange(64))
    expected = np.where(x_mm <= 0.0, Tissue.MUSCLE, Tissue.AIR)
    np.testing.assert_array_equal(canvas.tissue[10, 5], expected)
    assert canvas.hu[10, 5, 0] == 50.0
    assert canvas.hu[10, 5, 63] == -1000.0


def test_a_thin_rod_across_a_thick_slice_is_diluted() -> None:
    canvas = Canvas(FRAME, background_hu=0.0, blur_mm=1.5)
    canvas.paint_rod((-30.0, 0.0, 0.0), (30.0, 0.0, 0.0), (0.75, 0.75), 100.0)
    filled_mm3 = float(canvas.hu.sum()) / 100.0 * 1.5 * 1.5 * 3.0
    assert filled_mm3 == pytest.approx(math.pi * 0.75**2 * 60.0, rel=0.35)
    assert canvas.hu.max() < 60.0


def test_subslices_average_back_to_their_slice() -> None:
    at = subslices(slice(3, 6), 4)
    np.testing.assert_allclose(mean_of_subslices(at.reshape(-1, 1, 1), 4).reshape(-1), [3, 4, 5])
