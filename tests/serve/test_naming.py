from __future__ import annotations

from pathlib import Path

import pytest

from samcancer.errors import InputError
from samcancer.serve.naming import only_scan_of, parse_number, shown_line, uploaded_name


def test_uploaded_files_are_called_by_their_number_and_a_known_ending() -> None:
    assert uploaded_name(12, ".nii.gz") == "file-00012.nii.gz"
    assert uploaded_name(0, "") == "file-00000"


@pytest.mark.parametrize("suffix", [".exe", "/../x.nii", ".nii/", "\0"])
def test_no_other_ending_becomes_part_of_a_name(suffix: str) -> None:
    with pytest.raises(ValueError, match="suffix must be one of"):
        uploaded_name(0, suffix)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("00007", 7), ("41", 41)])
def test_numbers_below_the_limit_are_read(text: str, number: int) -> None:
    assert parse_number(text, below=42) == number


@pytest.mark.parametrize(
    "text", ["", "42", "-1", "1.0", "٣", "1_0", " 1", "9" * 5000, "../1", "0x1"]
)
def test_whatever_else_stands_there_is_no_number(text: str) -> None:
    assert parse_number(text, below=42) is None


def test_a_message_names_the_file_without_its_folders() -> None:
    error = InputError("is cut short", path=Path("/private/ab/upload/file-00003"), mend="re-copy")
    assert shown_line(error) == "file-00003: is cut short. Re-copy."


def test_a_message_on_the_folder_speaks_of_the_scan() -> None:
    error = InputError("holds 2 CT series", path=Path("/private/ab/upload"))
    assert shown_line(error) == "The scan: holds 2 CT series."


def test_advice_to_use_an_option_names_the_command_that_has_it() -> None:
    error = InputError("3 voxels are NaN", mend="choose a value with --nan-fill")
    expected = (
        "3 voxels are NaN. Use the command samcancer infer-volume: choose a value with --nan-fill."
    )
    assert shown_line(error) == expected


def test_a_volume_or_an_archive_has_to_come_alone() -> None:
    assert only_scan_of([Path("file-00000.mha")]) == Path("file-00000.mha")
    assert only_scan_of([Path("file-00000"), Path("file-00001")]) is None
    with pytest.raises(ValueError, match=r"2 files.*one scan at a time"):
        only_scan_of([Path("file-00000"), Path("file-00001.zip")])
