"""Which folders of a tree are cases, and which images of a folder are slices of a CT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from series_fakes import OTHER_SERIES, SERIES, SLICES, ct_slice, hu_of, save, write_series

from samcancer.errors import InputError
from samcancer.volume_io import ReadOptions, read_ct
from samcancer.volume_io.dicom import series_sha256
from samcancer.volume_io.dicom_folders import find_dicom_folders, folder_case_id
from samcancer.volume_io.formats import is_dicom_file


def derived(z: int, *kinds: str, **changes: Any) -> Any:
    return ct_slice(
        z,
        SeriesInstanceUID=OTHER_SERIES,
        SOPInstanceUID=f"1.2.3.{z}",
        ImageType=list(kinds),
        **changes,
    )


def plan(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "plan.dcm", ct_slice(0, Modality="RTSTRUCT", PixelData=None))
    return folder


def series_in(folder: Path, **changes: Any) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return write_series(folder, lambda z: changes)


def test_every_folder_that_holds_a_series_is_a_case_at_any_depth(tmp_path: Path) -> None:
    tree = [
        series_in(tmp_path / name)
        for name in ("anna/2020/thin", "bert/ct", "bert/ct/later", "cleo")
    ]
    plan(tmp_path / "bert" / "rt")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("nothing here")
    found = find_dicom_folders(tmp_path)
    assert found.cases == tuple(tree)
    assert found.left_out == (tmp_path / "bert" / "rt",)


def test_a_series_picks_its_folder(tmp_path: Path) -> None:
    series_in(tmp_path / "a")
    wanted = series_in(tmp_path / "b", SeriesInstanceUID=OTHER_SERIES)
    found = find_dicom_folders(tmp_path, series=OTHER_SERIES)
    assert found.cases == (wanted,)
    assert found.left_out == (tmp_path / "a",)


def test_a_folder_that_cannot_be_looked_through_is_a_case_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.dcm").write_bytes(b"")
    assert find_dicom_folders(tmp_path).cases == (tmp_path / "a",)


def test_hidden_folders_and_tables_of_contents_are_no_cases(tmp_path: Path) -> None:
    series_in(tmp_path / ".cache")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    assert find_dicom_folders(tmp_path).cases == ()


@pytest.mark.parametrize(
    ("folder", "below", "expected"),
    [
        ("anna", None, "anna"),
        ("Jürgen (1) & co", None, "Jürgen_1_co"),
        ("top/anna/ct 1", "top", "anna_ct_1"),
        ("top", "top", "top"),
        ("..hidden", None, "hidden"),
        ("$$$", None, "scan"),
    ],
)
def test_case_ids_are_names_of_folders_made_safe(
    folder: str, below: str | None, expected: str, tmp_path: Path
) -> None:
    start = None if below is None else tmp_path / below
    assert folder_case_id(tmp_path / folder, below=start) == expected


def test_dicom_is_known_by_its_name_or_its_first_bytes(tmp_path: Path) -> None:
    save(tmp_path / "IM0001", ct_slice(0))
    (tmp_path / "cut.IMA").write_bytes(b"")
    (tmp_path / "text").write_text("DICM")
    found = {p.name for p in tmp_path.iterdir() if is_dicom_file(p)}
    assert found == {"IM0001", "cut.IMA"}


@pytest.mark.parametrize(
    "kinds",
    [
        ("DERIVED", "SECONDARY", "MPR"),
        ("DERIVED", "SECONDARY"),
        ("DERIVED", "PRIMARY", "AXIAL", "REFORMATTED"),
        ("DERIVED", "SECONDARY", "AXIAL", "MIP"),
        ("DERIVED", "PRIMARY", "PROJECTION IMAGE"),
    ],
)
def test_derived_images_are_left_out_unless_their_series_is_asked_for(
    kinds: tuple[str, ...], tmp_path: Path
) -> None:
    folder = series_in(tmp_path / "ct")
    for z in range(3):
        save(folder / f"mpr_{z}.dcm", derived(z, *kinds))
    scan = read_ct(folder)
    np.testing.assert_array_equal(scan.hu, hu_of())
    assert scan.warnings == ("other files in the folder were left out: 3 derived image",)
    chosen = read_ct(folder, ReadOptions(series=OTHER_SERIES))
    np.testing.assert_array_equal(chosen.hu, hu_of()[:3])
    assert chosen.warnings == ("other files in the folder were left out: 6 of another CT series",)


def test_a_folder_of_derived_images_alone_names_their_series(tmp_path: Path) -> None:
    for z in range(3):
        save(tmp_path / f"{z}.dcm", derived(z, "DERIVED", "SECONDARY", "MPR"))
    with pytest.raises(InputError, match=rf"only 3 derived image\..*--series: {OTHER_SERIES}\.$"):
        read_ct(tmp_path)


def test_axial_slices_that_an_archive_calls_derived_are_read(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "ct", ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    np.testing.assert_array_equal(read_ct(folder).hu, hu_of())


def test_files_named_one_by_one_leave_out_the_others_of_their_folder(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "ct")
    for z in range(3):
        save(folder / f"other_{z}.dcm", derived(z, "ORIGINAL", "PRIMARY", "AXIAL"))
    named = frozenset(p.resolve() for p in folder.glob("image_*"))
    assert len(named) == SLICES
    np.testing.assert_array_equal(read_ct(folder, ReadOptions(files=named)).hu, hu_of())
    with pytest.raises(InputError, match="holds 2 CT series"):
        read_ct(folder)


def test_the_digest_of_a_series_needs_no_pixels(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "ct")
    assert series_sha256(folder) == read_ct(folder).source_sha256
    (folder / "image_1.dcm").write_bytes((folder / "image_1.dcm").read_bytes()[:-2])
    before = series_sha256(folder)
    with pytest.raises(InputError, match="pixels are missing or cut short"):
        read_ct(folder)
    save(folder / "image_1.dcm", ct_slice(SLICES - 1))
    assert series_sha256(folder) != before


def test_one_file_of_a_series_is_no_volume(tmp_path: Path) -> None:
    path = save(tmp_path / "slice.dcm", ct_slice(0))
    with pytest.raises(InputError, match=r"slice\.dcm: is one file of a DICOM series\. Name the f"):
        read_ct(path)


def test_several_series_are_told_apart_without_their_descriptions(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "ct", SeriesDescription="CANARY thin")
    for z in range(3):
        coronal = derived(
            z,
            *("ORIGINAL", "PRIMARY", "AXIAL"),
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
            ImagePositionPatient=[0, 4 * z, 0],
            SeriesDescription="CANARY coronal",
        )
        save(folder / f"cor_{z}.dcm", coronal)
    with pytest.raises(InputError) as caught:
        read_ct(folder)
    assert str(caught.value) == (
        f"{folder}: holds 2 CT series: {SERIES} (6 slices, axial, 7 x 9 pixels, voxels of 0.6 x "
        f"0.8 x 2.5 mm); {OTHER_SERIES} (3 slices, coronal, 7 x 9 pixels, voxels of 0.6 x 0.8 x 4 "
        "mm). Choose one with --series, or in the column series of a table."
    )
