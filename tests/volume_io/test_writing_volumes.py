"""Written files are whole, right and the same bytes each time, or they are absent."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from small_disk import small_disk
from volume_fakes import (
    ORIENTATIONS,
    ORIGIN_MM,
    SPACING_MM,
    SUFFIXES,
    nifti_header_of,
    phantom_hu,
    save_by_itk,
    save_nifti_with,
)

from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.geometry import Geometry
from samcancer.volume_io import (
    ReadOptions,
    read_ct,
    read_labels,
    write_ct,
    write_labels,
    write_probabilities,
)

CANARY = "CANARY Jane Doe"

DISK_BYTES = 1 << 20


def geometry_of(shape: tuple[int, int, int], direction: np.ndarray = ORIENTATIONS[13]) -> Geometry:
    size = (shape[2], shape[1], shape[0])
    return Geometry(size, SPACING_MM, ORIGIN_MM, tuple(float(v) for v in direction.ravel()))


def mask_of(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 3, size=shape).astype(np.uint8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("in_plane", [16, 63, 511, 768])
def test_one_to_seven_slices_of_any_width_come_back(in_plane, suffix, tmp_path):
    for slices in range(1, 8):
        shape = (slices, in_plane, in_plane + 3)
        values = np.zeros(shape, np.uint8)
        values[-1, : in_plane // 3, -2:] = 7
        path = tmp_path / f"mask{suffix}"
        write_labels(path, values, geometry_of(shape))
        again = read_labels(path)
        np.testing.assert_array_equal(again.values, values)
        assert again.geometry.shape == shape


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("direction", ORIENTATIONS[::5], ids=range(0, 48, 5))
def test_simpleitk_reads_what_was_written(direction, suffix, tmp_path):
    values, geometry = mask_of((4, 7, 9)), geometry_of((4, 7, 9), direction)
    path = tmp_path / f"mask{suffix}"
    write_labels(path, values, geometry)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    np.testing.assert_allclose(image.GetSpacing(), geometry.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), geometry.origin_mm, rtol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), geometry.direction, atol=1e-6)


def test_nibabel_reads_what_was_written(tmp_path):
    values, geometry = mask_of((4, 7, 9)), geometry_of((4, 7, 9))
    write_labels(tmp_path / "mask.nii.gz", values, geometry)
    image = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, values)
    lps_to_ras = np.array([-1.0, -1.0, 1.0])
    for affine in (image.get_qform(), image.get_sform()):
        expected = geometry.position_mm(np.array([8, 6, 3])) * lps_to_ras
        np.testing.assert_allclose((affine @ [8, 6, 3, 1])[:3], expected, atol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_input_gives_the_same_bytes(suffix, tmp_path):
    hashes = set()
    for folder in ("one", "two"):
        path = tmp_path / folder / f"mask{suffix}"
        write_labels(path, mask_of((4, 7, 9)), geometry_of((4, 7, 9)))
        os.utime(path, (0, 0))
        hashes.add(sha256_of(path))
    assert len(hashes) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_scans_and_probabilities_come_back(suffix, tmp_path):
    hu = phantom_hu((4, 7, 9))
    write_ct(tmp_path / f"scan{suffix}", hu, geometry_of(hu.shape))
    np.testing.assert_array_equal(read_ct(tmp_path / f"scan{suffix}").hu, hu)
    shares = np.random.default_rng(1).random(hu.shape, dtype=np.float32)
    write_probabilities(tmp_path / f"p{suffix}", shares, geometry_of(hu.shape))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"p{suffix}")))
    np.testing.assert_array_equal(found, shares)


GRID_FIELDS = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
    "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip

REFERENCES = {
    "sound": ({}, ReadOptions()),
    "scanner codes": ({"qform_code": 2, "sform_code": 4}, ReadOptions()),
    "qform alone": ({"sform_code": 0}, ReadOptions()),
    "sform alone": ({"qform_code": 0, "quatern_b": 0.7}, ReadOptions()),
    "neither": ({"qform_code": 0, "sform_code": 0}, ReadOptions()),
    "disagreeing, qform": ({"srow_z": {3: 204.0}}, ReadOptions(affine="qform")),
    "disagreeing, sform": ({"srow_z": {3: 204.0}}, ReadOptions(affine="sform")),
    "sheared": ({"qform_code": 0, "srow_x": {1: 0.02}}, ReadOptions(nearest_rotation=True)),
    "rounded qform": ({"quatern_b": 1e-7, "qoffset_x": 31.0001}, ReadOptions()),
}


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_mask_keeps_qform_and_sform_of_its_scan_bit_for_bit(kind, suffix, tmp_path):
    fields, options = REFERENCES[kind]
    scan_path = save_nifti_with(tmp_path / f"scan{suffix}", phantom_hu(), **fields)
    scan = read_ct(scan_path, options)
    write_labels(
        tmp_path / "mask.nii.gz", mask_of(scan.hu.shape), scan.geometry, reference=scan_path
    )
    before, after = nifti_header_of(scan_path), nifti_header_of(tmp_path / "mask.nii.gz")
    for name in GRID_FIELDS:
        kept = slice(0, 4) if name == "pixdim" else slice(None)
        assert np.atleast_1d(before[name])[kept].tobytes() == (
            np.atleast_1d(after[name])[kept].tobytes()
        ), name
    mask = read_labels(tmp_path / "mask.nii.gz", options)
    np.testing.assert_array_equal(mask.values, mask_of(scan.hu.shape))
    assert mask.geometry == scan.geometry


def test_free_text_of_the_scan_never_reaches_the_mask(tmp_path):
    text = CANARY.encode()
    scan_path = save_nifti_with(
        tmp_path / "scan.nii.gz",
        phantom_hu(),
        descrip=text,
        aux_file=text,
        db_name=text,
        intent_name=text,
        data_type=text[:9],
    )
    scan = read_ct(scan_path)
    path = tmp_path / "mask.nii"
    write_labels(path, mask_of(scan.hu.shape), scan.geometry, reference=scan_path)
    written = path.read_bytes()
    assert b"CANARY" not in written
    assert b"Jane" not in written


def test_a_scan_in_another_format_is_no_obstacle_as_reference(tmp_path):
    scan_path = save_by_itk(tmp_path / "scan.mha", phantom_hu())
    scan = read_ct(scan_path)
    path = tmp_path / "mask.nii.gz"
    write_labels(path, mask_of(scan.hu.shape), scan.geometry, reference=scan_path)
    assert read_labels(path).geometry.size_xyz == scan.geometry.size_xyz


def test_a_reference_of_another_size_is_refused(tmp_path):
    scan_path = save_by_itk(tmp_path / "scan.nii.gz", phantom_hu((5, 7, 9)))
    with pytest.raises(InputError, match=r"scan\.nii\.gz: its size \(9, 7, 5\) is not the mask's"):
        write_labels(
            tmp_path / "mask.nii.gz",
            mask_of((4, 7, 9)),
            geometry_of((4, 7, 9)),
            reference=scan_path,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unicode_and_spaces_in_paths_are_written(suffix, tmp_path):
    path = tmp_path / "Ordner mit ü" / f"Maske 中文{suffix}"
    write_labels(path, mask_of((4, 7, 9)), geometry_of((4, 7, 9)))
    np.testing.assert_array_equal(read_labels(path).values, mask_of((4, 7, 9)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_more_voxels_along_an_axis_than_nifti_can_count_are_refused(suffix, tmp_path):
    shape = (1, 2, 32768)
    with pytest.raises(InputError, match=r"beyond NIfTI-1\. Choose \.mha or \.nrrd"):
        write_labels(tmp_path / f"m{suffix}", np.zeros(shape, np.uint8), geometry_of(shape))


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    geometry = geometry_of((4, 7, 9))
    path = tmp_path / "m.nii.gz"
    with pytest.raises(TypeError, match="labels must be uint8, got int64"):
        write_labels(path, np.zeros((4, 7, 9), np.int64), geometry)
    with pytest.raises(TypeError, match="a scan must be int16, got float64"):
        write_ct(path, np.zeros((4, 7, 9)), geometry)
    with pytest.raises(ValueError, match=r"shape \(9, 7, 4\) on a grid of shape \(4, 7, 9\)"):
        write_labels(path, np.zeros((9, 7, 4), np.uint8), geometry)
    with pytest.raises(InputError, match=r"ending '\.png' is not one of"):
        write_labels(tmp_path / "m.png", np.zeros((4, 7, 9), np.uint8), geometry)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_reads_back_otherwise_is_not_kept(suffix, tmp_path, monkeypatch):
    from samcancer.volume_io import itk_formats, nifti

    def spoiling(write):
        def spoiled(path, values, geometry, **more):
            write(path, values ^ np.uint8(1), geometry, **more)

        return spoiled

    monkeypatch.setattr(nifti, "write_nifti", spoiling(nifti.write_nifti))
    monkeypatch.setattr(itk_formats, "write_itk", spoiling(itk_formats.write_itk))
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="reading back gave other voxels"):
        write_labels(path, mask_of((4, 7, 9)), geometry_of((4, 7, 9)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("announced", [True, False], ids=["checked first", "found out late"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(suffix, announced, tmp_path, monkeypatch):
    if not announced:
        monkeypatch.setattr("samcancer.files.shutil.disk_usage", _plenty_of_space)
    shape = (8, 400, 401)
    noise = np.random.default_rng(1).integers(0, 256, size=shape).astype(np.uint8)
    with small_disk(tmp_path / "disk", size_bytes=DISK_BYTES) as disk:
        path = disk / f"mask{suffix}"
        path.write_bytes(b"old")
        with pytest.raises(
            InputError, match=r"disk: needs|the disk is full|cannot be written .*Try another"
        ):
            write_labels(path, noise, geometry_of(shape))
        assert path.read_bytes() == b"old"
        assert list(disk.iterdir()) == [path]


def _plenty_of_space(path: Path) -> object:
    class Usage:
        free = 1 << 40

    return Usage


def test_masks_are_written_at_every_fill_level_or_refused(tmp_path):
    shape = (4, 300, 301)
    noise = np.random.default_rng(1).integers(0, 256, size=shape).astype(np.uint8)
    with small_disk(tmp_path / "disk", size_bytes=DISK_BYTES) as disk:
        path = disk / "mask.nii.gz"
        for filled in range(0, DISK_BYTES, DISK_BYTES // 10):
            (disk / "ballast").write_bytes(bytes(filled))
            path.unlink(missing_ok=True)
            with contextlib.suppress(InputError):
                write_labels(path, noise, geometry_of(shape))
            assert {p.name for p in disk.iterdir()} <= {"ballast", "mask.nii.gz"}
            if path.exists():
                np.testing.assert_array_equal(read_labels(path).values, noise)
