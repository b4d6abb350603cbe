"""Each doubtful NIfTI, MetaImage or NRRD file: one line with its name, the fact and the mend."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from volume_fakes import (
    SPACING_MM,
    SUFFIXES,
    phantom_hu,
    replaced,
    save_by_itk,
    save_nifti_with,
)

from samcancer.errors import InputError
from samcancer.volume_io import ReadOptions, find_volumes, read_ct, read_labels

HU = phantom_hu()

TERABYTES = [4, 32767, 32767, 32767, 1, 1, 1, 1]

SHEAR_2_DEGREES = np.tan(np.deg2rad(2.0)) * SPACING_MM[1]


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def with_text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def sheared(path: Path) -> Path:
    return save_nifti_with(path, HU, qform_code=0, srow_x={1: SHEAR_2_DEGREES})


def several_components(path: Path, pixel: int = sitk.sitkVectorUInt8) -> Path:
    sitk.WriteImage(sitk.Image([9, 7, 4], pixel, 3), str(path))
    return path


def four_dimensions(path: Path) -> Path:
    scan = sitk.GetImageFromArray(HU)
    sitk.WriteImage(sitk.JoinSeries([scan, scan]), str(path))
    return path


def two_dimensions(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(HU[0]), str(path))
    return path


def with_values(path: Path, dtype: str, **at: float) -> Path:
    values = HU.astype(dtype)
    for index, value in enumerate(at.values()):
        values[0, 1, index] = value
    return save_by_itk(path, values)


def in_meta(path: Path, old: str, new: str) -> Path:
    return replaced(save_by_itk(path, HU), old.encode(), new.encode())


REFUSED: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    # fault -> (file, maker, fact, mend)
    "sheared sform": ("s.nii.gz", sheared, r"sheared by 2\.00 degrees", "--nearest-rotation"),
    "sheared sform beside a valid qform": (
        "s.nii.gz",
        lambda p: save_nifti_with(p, HU, srow_x={1: SHEAR_2_DEGREES}),
        r"qform and sform put corners 0\.1676 mm apart",
        "--affine qform or --affine sform",
    ),
    "qform and sform 1 mm apart": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, srow_z={3: 204.0}),
        "qform and sform put corners 1 mm apart",
        "--affine qform or --affine sform",
    ),
    "qform tilted against the sform": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, quatern_b=0.003),
        r"qform and sform put corners 0\.\d+ mm apart",
        "--affine qform or --affine sform",
    ),
    "sform alone with another spacing": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, qform_code=0, pixdim={3: 2.5}),
        r"sform steps by \(0\.6, 0\.8, 5\) mm where its voxel spacing is \(0\.6, 0\.8, 2\.5\)",
        "--affine sform",
    ),
    "qform no rotation": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, sform_code=0, quatern_b=1.5),
        "qform is not a rotation",
        "--affine sform",
    ),
    "spacing 0": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, pixdim={1: 0}),
        r"\(0, 0\.8",
        "spacing",
    ),
    "spacing NaN": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, pixdim={3: np.nan}),
        "nan",
        "spacing",
    ),
    "spacing negative": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, pixdim={2: -0.8}),
        r"\(0\.6, -0\.8",
        "spacing",
    ),
    "sform with a zero row": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, qform_code=0, srow_x=0),
        r"sform steps by \(0, ",
        "mend the header",
    ),
    "spacing in metres": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, xyzt_units=1),
        "spacings in metres",
        "millimetres",
    ),
    "MetaImage without spacing": (
        "s.mha",
        lambda p: in_meta(p, "ElementSpacing = ", "ElementXpacing = "),
        "no voxel spacing",
        "save it with one",
    ),
    "NRRD without spacing": (
        "s.nrrd",
        lambda p: in_meta(p, "space directions:", "space dixections:"),
        "no voxel spacing",
        "save it with one",
    ),
    "NaN": ("s.nii.gz", lambda p: with_values(p, "f4", a=np.nan), "1 voxels are NaN", "--nan-fill"),
    "infinite": (
        "s.mha",
        lambda p: with_values(p, "f8", a=np.inf, b=-np.inf),
        "2 voxels are NaN or infinite",
        "--nan-fill",
    ),
    "beyond int16": (
        "s.nrrd",
        lambda p: with_values(p, "i4", a=32768, b=-40000),
        "2 voxels lie outside the int16 range, for example 32768",
        "rescale",
    ),
    "rescaled beyond int16": (
        "s.nii.gz",
        lambda p: save_nifti_with(p, HU, scl_slope=100.0),
        "lie outside the int16 range",
        "rescale",
    ),
    "infinite rescale": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, scl_slope=np.inf),
        r"rescale is inf x \+ 0",
        "re-copy",
    ),
    "stored with an offset of 1024": (
        "s.nii.gz",
        lambda p: save_by_itk(p, (HU + 1024).astype(np.uint16)),
        "not in HU",
        "rescale intercept",
    ),
    "4-D": ("s.nii.gz", four_dimensions, r"has 4 dimensions, \[9, 7, 4, 2\]", "one 3-D volume"),
    "4-D MetaImage": ("s.mha", four_dimensions, "has 4 dimensions", "one 3-D volume"),
    "2-D": ("s.nii", two_dimensions, r"dimensions are \[9, 7\]", "3-D volume"),
    "2-D NRRD": ("s.nrrd", two_dimensions, "has 2 dimensions", "one 3-D volume"),
    "RGB": (
        "s.nii.gz",
        lambda p: save_nifti_with(p, HU, datatype=128),
        r"NIfTI type 128 \(colour",
        "one grey value",
    ),
    "vectors in NIfTI": ("s.nii", several_components, "5 dimensions", "one 3-D volume"),
    "vectors in MetaImage": ("s.mha", several_components, "3 values per voxel", "one grey value"),
    "vectors in NRRD": ("s.nrrd", several_components, "3 values per voxel", "one grey value"),
    "truncated .nii.gz": ("s.nii.gz", lambda p: cut(save_by_itk(p, HU), 0.6), "damaged", "re-copy"),
    "truncated .nii": ("s.nii", lambda p: cut(save_by_itk(p, HU), 0.6), "bytes", "re-copy"),
    "truncated .mha": ("s.mha", lambda p: cut(save_by_itk(p, HU), 0.8), "cut short", "re-copy"),
    "truncated .nrrd": ("s.nrrd", lambda p: cut(save_by_itk(p, HU), 0.9), "cut short", "re-copy"),
    "truncated raw .mha": (
        "s.mha",
        lambda p: cut(save_by_itk(p, HU, packed=False), 0.8),
        r"holds \d+ voxel bytes where its header says 504",
        "re-copy",
    ),
    "cut inside the header": ("s.nii", lambda p: with_text(p, b"\x5c\1\0\0" + bytes(96)), "", "re"),
    "surplus voxels": (
        "s.nii.gz",
        lambda p: save_nifti_with(p, HU, dim={3: 3}),
        "holds more voxel bytes where its header says 378",
        "re-copy",
    ),
    "bytes behind the gzip stream": (
        "s.nii.gz",
        lambda p: with_text(p, save_by_itk(p, HU).read_bytes() + b"tail"),
        "compressed data is damaged",
        "re-copy",
    ),
    "a second gzip member cut short": (
        "s.nii.gz",
        lambda p: with_text(p, save_by_itk(p, HU).read_bytes() + gzip.compress(b"")[:-3]),
        "cut short",
        "re-copy",
    ),
    "0 bytes": ("s.nii.gz", lambda p: with_text(p, b""), r"empty \(0 bytes\)", "re-copy"),
    "text": (
        "s.nii",
        lambda p: with_text(p, b"hello\n"),
        "named .nii but its content is text",
        "re",
    ),
    "another ending": (
        "s.nii.gz",
        lambda p: save_by_itk(p.with_name("other.mha"), HU).rename(p),
        "named .nii.gz but its content is MetaImage",
        "correct the name",
    ),
    "gzip under .nii": (
        "s.nii",
        lambda p: save_by_itk(p.with_name("other.nii.gz"), HU).rename(p),
        "named .nii but its content is gzip",
        "correct the name",
    ),
    "text inside gzip": ("s.nii.gz", lambda p: with_text(p, gzip.compress(b"a" * 999)), "", "conv"),
    "NIfTI in two files": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, magic=b"ni1"),
        "in two files",
        "convert it to .nii.gz",
    ),
    "MetaImage in two files": (
        "s.mha",
        lambda p: in_meta(p, "ElementDataFile = LOCAL", "ElementDataFile = other.raw"),
        "in another file",
        "save it as .mha",
    ),
    "NRRD in two files": (
        "s.nrrd",
        lambda p: in_meta(p, "encoding: gzip", "encoding: gzip\ndata file: other.raw"),
        "in another file",
        "save it as one .nrrd",
    ),
    "NRRD as text": (
        "s.nrrd",
        lambda p: in_meta(p, "encoding: gzip", "encoding: ascii"),
        "encoding is 'ascii'",
        "save it as gzip",
    ),
    "NRRD in another space": (
        "s.nrrd",
        lambda p: in_meta(p, "space: left-posterior-superior", "space: scanner-xyz"),
        "space is 'scanner-xyz'",
        "left-posterior-superior",
    ),
    "numbers that are none": (
        "s.mha",
        lambda p: in_meta(p, "Offset = -31", "Offset = -3O"),
        "has '-3O 17.5 203' for numbers",
        "re-copy",
    ),
    "NRRD with skipped bytes": (
        "s.nrrd",
        lambda p: in_meta(p, "encoding: gzip", "encoding: gzip\nbyte skip: 3"),
        "byte skip is '3'",
        "save it again",
    ),
    "MetaImage as text": (
        "s.mha",
        lambda p: in_meta(p, "BinaryData = True", "BinaryData = False"),
        "BinaryData is 'False'",
        "save it again",
    ),
    "unknown type": (
        "s.mha",
        lambda p: in_meta(p, "MET_SHORT", "MET_SHART"),
        "type 'MET_SHART' and size '9 7 4'",
        "re-copy",
    ),
    "terabytes in .nii": (
        "s.nii",
        lambda p: save_nifti_with(p, HU, dim=TERABYTES),
        r"asks for 70\d{12} bytes, more than the file",
        "re-copy",
    ),
    "terabytes in .nii.gz": (
        "s.nii.gz",
        lambda p: save_nifti_with(p, HU, dim=TERABYTES),
        r"asks for 70\d{12} bytes, more than the file",
        "re-copy",
    ),
    "terabytes in .mha": (
        "s.mha",
        lambda p: in_meta(p, "DimSize = 9 7 4", "DimSize = 99999 99999 999"),
        r"asks for 1\d{13} bytes, more than the file",
        "re-copy",
    ),
    "terabytes in .nrrd": (
        "s.nrrd",
        lambda p: in_meta(p, "sizes: 9 7 4", "sizes: 99999 99999 999"),
        r"asks for 1\d{13} bytes, more than the file",
        "re-copy",
    ),
    "voxels far behind the header": (
        "s.nii.gz",
        lambda p: save_nifti_with(p, HU, vox_offset=1e30),
        "voxels start at byte 1e\\+30",
        "re-copy",
    ),
}


@pytest.mark.parametrize("fault", REFUSED, ids=lambda fault: fault.replace(" ", "-"))
def test_the_fault_is_refused_in_one_line_with_file_and_mend(fault, tmp_path):
    name, make, fact, mend = REFUSED[fault]
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError) as caught:
        read_ct(path)
    error = caught.value
    assert len(str(error).splitlines()) == 1
    assert str(error).startswith(f"{path}: ")
    assert re.search(fact, error.fact)
    assert mend in (error.mend or "")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.nii\.gz: no such file\."):
        read_ct(tmp_path / "absent.nii.gz")


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"ending '\.png' is not one of \.nii\.gz, .*\.nrrd"):
        read_ct(with_text(tmp_path / "a.png", b"x"))


@pytest.mark.parametrize(("affine", "z_mm"), [("qform", 203.0), ("sform", 204.0)])
def test_the_chosen_affine_is_believed_where_the_two_disagree(affine, z_mm, tmp_path):
    path = save_nifti_with(tmp_path / "s.nii.gz", HU, srow_z={3: 204.0})
    scan = read_ct(path, ReadOptions(affine=affine))
    assert scan.geometry.origin_mm[2] == pytest.approx(z_mm)


def test_an_affine_that_is_not_there_cannot_be_chosen(tmp_path):
    path = save_nifti_with(tmp_path / "s.nii", HU, sform_code=0)
    with pytest.raises(InputError, match=r"has no sform\. Use --affine qform\."):
        read_ct(path, ReadOptions(affine="sform"))


def test_a_scan_without_any_affine_is_read_with_a_warning(tmp_path):
    scan = read_ct(save_nifti_with(tmp_path / "s.nii", HU, qform_code=0, sform_code=0))
    assert scan.warnings == ("the header gives no orientation: taken as LPS",)
    assert scan.geometry.spacing_mm == pytest.approx(SPACING_MM)


def test_a_sheared_scan_is_straightened_when_asked_and_the_user_is_told(tmp_path):
    path = tmp_path / "s.nii.gz"
    sheared(path)
    scan = read_ct(path, ReadOptions(nearest_rotation=True))
    assert "sheared by 2.000 degrees were straightened" in scan.warnings[0]
    np.testing.assert_allclose(
        scan.geometry.direction_matrix.T @ scan.geometry.direction_matrix, np.eye(3), atol=1e-9
    )


def test_a_slight_shear_is_repaired_and_told(tmp_path):
    slight = np.tan(np.deg2rad(0.1)) * SPACING_MM[1]
    scan = read_ct(save_nifti_with(tmp_path / "s.nii", HU, qform_code=0, srow_x={1: slight}))
    assert "sheared by 0.100 degrees were straightened" in scan.warnings[0]


def test_nan_and_infinite_voxels_take_the_fill_value(tmp_path):
    path = with_values(tmp_path / "s.nii.gz", "f4", a=np.nan, b=np.inf)
    expected = HU.copy()
    expected[0, 1, :2] = -1024
    np.testing.assert_array_equal(read_ct(path, ReadOptions(nan_fill=-1024)).hu, expected)


@pytest.mark.parametrize("fill", [float("nan"), 40000.0])
def test_a_fill_value_that_is_no_hu_is_refused(fill):
    with pytest.raises(InputError, match=r"--nan-fill must be from -32768 to 32767 HU, got"):
        ReadOptions(nan_fill=fill)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_between_whole_numbers_are_listed_with_their_counts(suffix, tmp_path):
    values = np.zeros((2, 3, 4), np.float32)
    values[0, 0, :3] = [0.5, 0.5, 1.25]
    message = r"3 voxels are not whole numbers: 0\.5 \(2 x\), 1\.25 \(1 x\)\. Save the label map"
    with pytest.raises(InputError, match=message):
        read_labels(save_by_itk(tmp_path / f"m{suffix}", values))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1.0, 65536.0])
def test_labels_that_are_no_labels_are_listed(value, tmp_path):
    values = np.zeros((2, 3, 4), np.float64)
    values[1, 2, 3] = value
    with pytest.raises(InputError, match=rf"1 voxels are .*: {re.escape(f'{value:g}')} \(1 x\)"):
        read_labels(save_by_itk(tmp_path / "m.nii.gz", values))


def test_integral_floats_are_labels(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(
        read_labels(save_by_itk(tmp_path / "m.nii.gz", values)).values, values
    )


def test_volumes_of_a_folder_are_found_sorted_without_unfinished_and_foreign_files(tmp_path):
    for name in ("b.nii.gz", "a.mha", ".tmp-1-c.nii.gz", "._b.nii.gz", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.nrrd").mkdir()
    assert [p.name for p in find_volumes(tmp_path)] == ["a.mha", "b.nii.gz"]
    assert find_volumes(tmp_path / "a.mha") == [tmp_path / "a.mha"]


def test_a_folder_without_volumes_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.nii\.gz, .*\. Name another folder\."):
        find_volumes(tmp_path)
