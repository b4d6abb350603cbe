"""Sound files give the voxels and the grid that SimpleITK gives, in every orientation."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from volume_fakes import (
    ORIENTATIONS,
    SUFFIXES,
    phantom_hu,
    replaced,
    save_by_itk,
    save_nifti_with,
)

from samcancer.geometry import Geometry
from samcancer.volume_io import CtVolume, read_ct, read_labels

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"

MOST_REAL_SCANS = 6
"""Scans of the real set read in the default run; the slow run reads all."""

CORNER_TOLERANCE_MM = 1e-3


def itk_grid(image: sitk.Image) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def assert_equals_itk(scan: CtVolume, path: Path, tolerance_mm: float = CORNER_TOLERANCE_MM):
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(scan.hu, sitk.GetArrayFromImage(image))
    assert scan.geometry.size_xyz == image.GetSize()
    apart_mm = np.abs(scan.geometry.corners_mm() - itk_grid(image).corners_mm()).max()
    assert apart_mm <= tolerance_mm


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("direction", ORIENTATIONS, ids=range(48))
def test_a_scan_in_any_orientation_is_read_as_simpleitk_reads_it(direction, suffix, tmp_path):
    path = save_by_itk(tmp_path / f"scan{suffix}", phantom_hu(), direction=direction)
    assert_equals_itk(read_ct(path), path)


@pytest.mark.parametrize("degrees", [0.05, 1.0, 17.0, 44.0, 63.0])
def test_an_oblique_scan_has_the_spacing_that_its_header_states(degrees, tmp_path):
    """Measured off the sform's float32 products, 2.5 mm would be 2.49999985."""
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    path = save_by_itk(tmp_path / "scan.nii.gz", phantom_hu(), direction=turn)
    assert read_ct(path).geometry.spacing_mm == sitk.ReadImage(str(path)).GetSpacing()


@pytest.mark.parametrize("degrees", [0.01, 0.05, 1.0, 17.0, 44.0, 179.99])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_oblique_scan_is_read_as_simpleitk_reads_it(degrees, suffix, tmp_path):
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    path = save_by_itk(tmp_path / f"scan{suffix}", phantom_hu(), direction=turn @ ORIENTATIONS[9])
    # Near half a turn float32 cannot hold a quaternion's angle, and SimpleITK may read that.
    assert_equals_itk(read_ct(path), path, tolerance_mm=2e-2)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_voxel_type_is_read(dtype, suffix, tmp_path):
    values = (phantom_hu() // 10).astype(dtype)
    path = save_by_itk(tmp_path / f"scan{suffix}", values)
    assert_equals_itk(read_ct(path), path)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i2", "f4", "f8"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_of_every_type_become_uint8(dtype, suffix, tmp_path):
    values = np.arange(4 * 7 * 9).reshape(4, 7, 9) % 200
    labels = read_labels(save_by_itk(tmp_path / f"mask{suffix}", values.astype(dtype)))
    assert labels.values.dtype == np.uint8
    np.testing.assert_array_equal(labels.values, values)


def test_labels_above_255_become_uint16(tmp_path):
    values = np.array([[[0, 256], [65535, 1]]], np.uint16)
    labels = read_labels(save_by_itk(tmp_path / "mask.nii.gz", values))
    assert labels.values.dtype == np.uint16
    np.testing.assert_array_equal(labels.values, values)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_files_without_compression_are_read(suffix, tmp_path):
    path = save_by_itk(tmp_path / f"scan{suffix}", phantom_hu(), packed=False)
    assert_equals_itk(read_ct(path), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_fourth_dimension_of_one_is_dropped(suffix, tmp_path):
    image = sitk.JoinSeries([sitk.GetImageFromArray(phantom_hu())])
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"), useCompression=True)
    scan = read_ct(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(scan.hu, phantom_hu())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_big_endian_files_are_read(suffix, tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(phantom_hu().T, np.diag([-0.6, -0.8, 5.0, 1.0]))
    swapped = nibabel.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped(">"))
    path = tmp_path / f"scan{suffix}"
    nibabel.save(swapped, path)
    assert_equals_itk(read_ct(path), path)


@pytest.mark.parametrize("first", [1, 10, 348, 352, 700])
def test_a_scan_packed_in_two_gzip_members_and_padded_is_read(first, tmp_path):
    plain = save_by_itk(tmp_path / "scan.nii", phantom_hu()).read_bytes()
    path = tmp_path / "scan.nii.gz"
    members = gzip.compress(plain[:first]) + gzip.compress(plain[first:])
    path.write_bytes(members + bytes(300))
    np.testing.assert_array_equal(read_ct(path).hu, phantom_hu())


def test_a_rescaled_scan_is_read_in_hu(tmp_path):
    stored = (phantom_hu() + 1024).astype(np.int16)
    path = save_nifti_with(tmp_path / "scan.nii.gz", stored, scl_slope=2.0, scl_inter=-2048.0)
    np.testing.assert_array_equal(read_ct(path).hu, 2 * phantom_hu())
    assert_equals_itk(read_ct(path), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unicode_and_spaces_in_paths_are_read(suffix, tmp_path):
    folder = tmp_path / "Ordner mit ü und 中文"
    folder.mkdir()
    path = save_by_itk(tmp_path / f"scan{suffix}", phantom_hu())
    path = path.rename(folder / f"ct é 1{suffix}")
    np.testing.assert_array_equal(read_ct(path).hu, phantom_hu())


LPS_SPACE = b"space: left-posterior-superior"

OTHER_HEADERS = {
    "RAS": ("s.nrrd", LPS_SPACE, b"space: right-anterior-superior"),
    "LAS": ("s.nrrd", LPS_SPACE, b"space: left-anterior-superior"),
    "RAS in short": ("s.nrrd", LPS_SPACE, b"space: RAS"),
    "no named space": ("s.nrrd", LPS_SPACE, b"space dimension: 3"),
    "a comment": ("s.nrrd", LPS_SPACE, b"# sizes: 1 2 3\n" + LPS_SPACE),
    "a key with a value": ("s.nrrd", LPS_SPACE, LPS_SPACE + b"\nsizes:=1 2 3"),
    "big endian NRRD": ("s.nrrd", b"endian: little", b"endian: big"),
    "big endian MetaImage": ("s.mha", b"OrderMSB = False", b"OrderMSB = True"),
    "another name for Offset": ("s.mha", b"Offset", b"Position"),
    "another name for the matrix": ("s.mha", b"TransformMatrix", b"Orientation"),
    "another name for the spacing": ("s.mha", b"ElementSpacing", b"ElementSize"),
}


@pytest.mark.parametrize("kind", OTHER_HEADERS)
def test_other_ways_to_say_the_same_are_read_as_simpleitk_reads_them(kind, tmp_path):
    name, old, new = OTHER_HEADERS[kind]
    values = np.arange(4 * 7 * 9, dtype=np.int16).reshape(4, 7, 9) * 11 - 1000
    path = save_by_itk(tmp_path / name, values, direction=ORIENTATIONS[17])
    assert_equals_itk(read_ct(replaced(path, old, new)), path)


def real_scans() -> list[Path]:
    scans = sorted(REAL_DATA.rglob("*.nii.gz"))
    if not scans:
        pytest.skip("no real scans in ../shared/data beside the repository")
    return scans


def assert_real_scan_equals_itk(path: Path) -> None:
    if "label" in str(path) or "seg" in path.name:
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(read_labels(path).values, sitk.GetArrayFromImage(image))
    else:
        assert_equals_itk(read_ct(path), path)


def test_real_scans_are_read_as_simpleitk_reads_them():
    scans = real_scans()
    for path in scans[:: max(1, len(scans) // MOST_REAL_SCANS)]:
        assert_real_scan_equals_itk(path)


@pytest.mark.slow
def test_all_real_scans_are_read_as_simpleitk_reads_them():
    for path in real_scans():
        assert_real_scan_equals_itk(path)
