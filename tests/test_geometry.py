"""Grids and canonical orientation: positions are kept, every turn is undone exactly."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samcancer.errors import InputError
from samcancer.geometry import (
    SAME_GRID_TOLERANCE_MM,
    Geometry,
    canonicalise,
    require_same_grid,
    restore,
)
from samcancer.volume_io import read_ct, read_labels, write_ct, write_labels

ORIENTATIONS = [
    np.eye(3)[:, list(axes)] * signs
    for axes in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]
"""The 48 axis-aligned direction matrices, half of them left-handed."""


def geometry_of(
    shape: tuple[int, int, int],
    direction: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float] = (0.7, 1.1, 4.0),
    origin_mm: tuple[float, float, float] = (-103.25, 57.5, 811.0),
) -> Geometry:
    return Geometry(
        (shape[2], shape[1], shape[0]),
        spacing_mm,
        origin_mm,
        tuple(float(v) for v in direction.ravel()),
    )


def random_rotation(random: np.random.Generator, most_degrees: float) -> np.ndarray:
    axis = random.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.deg2rad(random.uniform(0, most_degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def random_case(seed: int) -> tuple[np.ndarray, Geometry]:
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 13)), *(int(v) for v in random.integers(2, 24, size=2)))
    rotation = random_rotation(random, most_degrees=30) if seed % 3 else np.eye(3)
    geometry = Geometry(
        (shape[2], shape[1], shape[0]),
        tuple(float(v) for v in random.uniform(0.3, 10, size=3)),
        tuple(float(v) for v in random.uniform(-500, 500, size=3)),
        tuple(float(v) for v in (rotation @ ORIENTATIONS[seed % 48]).ravel()),
    )
    return random.integers(0, 200, size=shape).astype(np.uint8), geometry


def mismatches_after_the_round_trip(seed: int, folder: Path) -> int:
    """Canonicalise, restore, write and read; return how many voxels changed value or place."""
    values, geometry = random_case(seed)
    view, turned, reorientation = canonicalise(values, geometry)
    assert view.shape == turned.shape
    path = folder / f"case{('.nii.gz', '.nii', '.mha', '.nrrd')[seed // 48 % 4]}"
    write_labels(path, restore(view, reorientation), geometry)
    again = read_labels(path)
    require_same_grid(geometry, again.geometry, image_path=path, label_path=path)
    view_again, turned_again, _ = canonicalise(again.values, again.geometry)
    require_same_grid(turned, turned_again, image_path=path, label_path=path)
    return int((again.values != values).sum() + (view_again != view).sum())


@pytest.mark.figure("geometry")
def test_a_turned_volume_written_and_read_again_keeps_every_voxel(tally, tmp_path):
    for seed in tally.trials():
        assert mismatches_after_the_round_trip(seed, tmp_path) == 0


@pytest.mark.parametrize("seed", range(48))
def test_every_voxel_keeps_its_position_in_the_patient(seed):
    values, geometry = random_case(seed)
    index = np.arange(values.size).reshape(values.shape)
    view, turned, _ = canonicalise(index, geometry)
    z, y, x = np.unravel_index(view.ravel(), values.shape)
    before = geometry.position_mm(np.stack([x, y, z], axis=-1))
    z, y, x = np.indices(turned.shape).reshape(3, -1)
    after = turned.position_mm(np.stack([x, y, z], axis=-1))
    np.testing.assert_allclose(after, before, atol=1e-9)


@pytest.mark.parametrize("seed", range(48))
def test_canonical_axes_run_to_left_posterior_and_superior(seed):
    values, geometry = random_case(seed)
    _, turned, _ = canonicalise(values, geometry)
    assert (np.diag(turned.direction_matrix) > 0).all()
    assert np.abs(turned.direction_matrix).argmax(axis=0).tolist() == [0, 1, 2]


@pytest.mark.figure("landmarks")
@pytest.mark.parametrize("direction", ORIENTATIONS, ids=range(48))
def test_landmarks_lie_where_nibabel_puts_them(direction, tmp_path):
    shape = (5, 7, 11)
    hu = np.full(shape, -1000, np.int16)
    landmarks = {"one": (0, 1, 2), "two": (4, 1, 9), "three": (2, 6, 3), "four": (3, 0, 10)}
    for value, index in enumerate(landmarks.values(), start=1):
        hu[index] = value
    path = tmp_path / "phantom.nii.gz"
    write_ct(path, hu, geometry_of(shape, direction))

    oracle = nibabel.as_closest_canonical(nibabel.load(path))
    scan = read_ct(path)
    canonical, turned, _ = canonicalise(scan.hu, scan.geometry)

    for value in range(1, 5):
        ((i, j, k),) = np.argwhere(np.asarray(oracle.dataobj) == value)
        right, anterior, superior = (oracle.affine @ [i, j, k, 1])[:3]
        ((z, y, x),) = np.argwhere(canonical == value)
        found = turned.position_mm(np.array([x, y, z]))
        np.testing.assert_allclose(found, [-right, -anterior, superior], atol=1e-3)
        # nibabel's canonical arrays are (x, y, z) towards right and anterior.
        assert (x, y, z) == (shape_xyz(oracle)[0] - 1 - i, shape_xyz(oracle)[1] - 1 - j, k)


def shape_xyz(image: nibabel.Nifti1Image) -> tuple[int, ...]:
    return tuple(image.shape)


def test_canonicalise_gives_a_view_and_restore_the_very_same_memory():
    values, geometry = random_case(29)
    view, _, reorientation = canonicalise(values, geometry)
    assert np.shares_memory(view, values)
    assert np.shares_memory(restore(view, reorientation), values)


def test_an_array_of_another_shape_than_its_grid_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) on a grid of shape \(4, 3, 2\)"):
        canonicalise(np.zeros((2, 3, 4)), geometry_of((4, 3, 2), np.eye(3)))


def test_a_geometry_survives_json():
    geometry = geometry_of((4, 3, 2), ORIENTATIONS[17])
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_a_voxel_has_the_volume_of_its_spacings():
    geometry = geometry_of((2, 3, 4), np.eye(3), spacing_mm=(0.5, 2.0, 5.0))
    assert geometry.voxel_volume_ml == pytest.approx(0.5 * 2.0 * 5.0 / 1000)
    assert geometry.slice_spacing_mm == 5.0
    assert geometry.shape == (2, 3, 4)


def test_corners_are_the_centres_of_the_outermost_voxels():
    geometry = geometry_of((2, 3, 4), np.eye(3), spacing_mm=(1, 2, 5), origin_mm=(10, 20, 30))
    corners = geometry.corners_mm()
    assert corners.min(axis=0).tolist() == [10, 20, 30]
    assert corners.max(axis=0).tolist() == [10 + 3 * 1, 20 + 2 * 2, 30 + 1 * 5]


def shifted(geometry: Geometry, by_mm: float) -> Geometry:
    x, y, z = geometry.origin_mm
    return geometry_of(
        geometry.shape,
        geometry.direction_matrix,
        spacing_mm=geometry.spacing_mm,
        origin_mm=(x, y, z + by_mm),
    )


def compare(image: Geometry, label: Geometry) -> None:
    paths = {"image_path": Path("scan.nii.gz"), "label_path": Path("label.nii.gz")}
    require_same_grid(image, label, **paths)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_labels_within_the_tolerance_count_as_on_the_image(share):
    geometry = geometry_of((2, 3, 4), np.eye(3), spacing_mm=(2, 2, 2))
    compare(geometry, shifted(geometry, share * SAME_GRID_TOLERANCE_MM))


@pytest.mark.parametrize(("spacing_mm", "by_mm"), [(2.0, 1.1e-2), (0.3, 0.4e-2)])
def test_labels_beyond_the_tolerance_are_refused(spacing_mm, by_mm):
    geometry = geometry_of((2, 3, 4), np.eye(3), spacing_mm=(spacing_mm,) * 3)
    message = rf"^label\.nii\.gz: .* up to {by_mm} mm from .* Resample .*scan\.nii\.gz\.$"
    with pytest.raises(InputError, match=message):
        compare(geometry, shifted(geometry, by_mm))


def test_labels_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"size \(4, 3, 2\) differs from the image's \(5, 3, 2\)"):
        compare(geometry_of((2, 3, 5), np.eye(3)), geometry_of((2, 3, 4), np.eye(3)))


SHEARED = np.array([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size_xyz": (3, 0, 2)}, "size must be three positive"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "spacing must be three positive"),
        ({"origin_mm": (0.0, float("inf"), 0.0)}, "origin must be three finite"),
        ({"direction": (1.0,) * 8}, "direction must be nine finite"),
        ({"direction": tuple(SHEARED.ravel())}, "direction must be orthonormal"),
    ],
    ids=["size", "spacing", "origin", "direction", "shear"],
)
def test_a_grid_that_cannot_be_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Geometry.from_dict({**geometry_of((2, 3, 4), np.eye(3)).to_dict(), **changed})


@pytest.mark.parametrize("direction", ORIENTATIONS[::5])
def test_indices_of_positions_are_the_indices_again(direction: np.ndarray) -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    oblique = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ direction
    geometry = geometry_of((5, 7, 9), oblique)
    index = np.array([[0.0, 0, 0], [8, 6, 4], [1.25, -3.5, 2.75]])
    np.testing.assert_allclose(
        geometry.index_xyz(geometry.position_mm(index)), index, rtol=0, atol=1e-9
    )
