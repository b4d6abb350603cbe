"""Sizes are taken from headers, and cost no memory whatever they say."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from volume_fakes import SUFFIXES, phantom_hu, save_by_itk, save_nifti_with

from samcancer.volume_io.stated_size import stated_voxels

SHAPE = (4, 7, 9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_voxels_of_a_volume_are_counted(suffix: str, tmp_path: Path) -> None:
    path = save_by_itk(tmp_path / f"scan{suffix}", phantom_hu(SHAPE))
    assert stated_voxels(path) == 4 * 7 * 9


def test_a_header_that_asks_for_terabytes_is_believed_and_not_obeyed(tmp_path: Path) -> None:
    path = save_nifti_with(
        tmp_path / "huge.nii.gz", phantom_hu(SHAPE), dim={1: 32767, 2: 32767, 3: 32767}
    )
    assert stated_voxels(path) == 32767**3


def test_all_dimensions_count(tmp_path: Path) -> None:
    path = save_nifti_with(tmp_path / "time.nii", phantom_hu(SHAPE), dim={0: 4, 4: 1000})
    assert stated_voxels(path) == 4 * 7 * 9 * 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("length", [0, 1, 60])
def test_a_file_that_ends_inside_its_header_is_one_line(
    suffix: str, length: int, tmp_path: Path
) -> None:
    path = save_by_itk(tmp_path / f"scan{suffix}", phantom_hu(SHAPE))
    content = path.read_bytes()
    if suffix == ".nii.gz":
        content = gzip.compress(gzip.decompress(content)[:length])
        path.write_bytes(content)
    else:
        path.write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"scan\.(nii|mha|nrrd)") as caught:
        stated_voxels(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_dicom_has_no_voxel(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x" * 200)
    assert stated_voxels(tmp_path) == 0
