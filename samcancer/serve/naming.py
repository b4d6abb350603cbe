"""Names on the server: every one is made here, so that none that a browser sends is ever opened.

The name of a user's file never leaves the browser. An uploaded file is called by its number and an
ending from a fixed list; messages name it so, and the browser puts the true name in its place.
"""

from __future__ import annotations

from pathlib import Path

from samcancer.errors import InputError
from samcancer.volume_io.formats import VOLUME_SUFFIXES

UPLOAD_FOLDER = "upload"

RESULT_FOLDER = "result"

UNPACKED_FOLDER = "unpacked"
"""Of what an archive holds, beside the archive."""

CASE_ID = "scan"
"""Name of every result; what a user calls the scan is not known here."""

ARCHIVE_SUFFIX = ".zip"

SERIES_SUFFIX = ""
"""Of a file of a DICOM series: its ending says nothing, its content decides."""

ALLOWED_SUFFIXES = (*VOLUME_SUFFIXES, ARCHIVE_SUFFIX, SERIES_SUFFIX)

_NUMBER_DIGITS = 5

_FOLDERS = (UPLOAD_FOLDER, RESULT_FOLDER, UNPACKED_FOLDER)


def uploaded_name(number: int, suffix: str) -> str:
    """Return the name of the uploaded file of a number, such as ``file-00012.nii.gz``."""
    if suffix not in ALLOWED_SUFFIXES:
        msg = f"suffix must be one of {ALLOWED_SUFFIXES}, got {suffix!r}"
        raise ValueError(msg)
    return f"file-{number:0{_NUMBER_DIGITS}d}{suffix}"


def entry_name(number: int, suffix: str) -> str:
    """Return the name of an archive's entry, such as ``entry-00012``."""
    return f"entry-{number:0{_NUMBER_DIGITS}d}{suffix}"


def parse_number(text: str, *, below: int) -> int | None:
    """Return the number that a path of an address names, or None when it names none.

    Args:
        text: From a browser.
        below: Numbers from here on are none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _NUMBER_DIGITS):
        return None
    number = int(text)
    return number if number < below else None


def shown_line(error: InputError) -> str:
    """Return an error for the page: files by their names here, without folders.

    Advice to use an option is passed on with the command that has it.
    """
    path, mend = error.path, error.mend
    where = ""
    if path is not None:
        where = "The scan: " if path.name in _FOLDERS else f"{path.name}: "
    if mend and "--" in mend:
        mend = f"use the command samcancer infer-volume: {mend}"
    advice = f" {mend[0].upper()}{mend[1:]}." if mend else ""
    return " ".join(f"{where}{error.fact}.{advice}".splitlines())


def only_scan_of(files: list[Path]) -> Path | None:
    """Return the one volume or archive of an upload; None for the files of a series.

    Raises:
        InputError: When a volume or an archive does not come alone.
    """
    whole = [path for path in files if path.name.endswith((*VOLUME_SUFFIXES, ARCHIVE_SUFFIX))]
    if not whole:
        return None
    if len(files) > 1:
        raise InputError(
            f"{len(files)} files, and at least one of them is a whole scan",
            mend="give one scan at a time",
        )
    return whole[0]
