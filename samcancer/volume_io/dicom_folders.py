"""The DICOM folders of a tree: which of them hold a CT series, and what their cases are called.

A folder that directly holds DICOM files is one case; study and series folders above it are walked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from samcancer.errors import InputError
from samcancer.volume_io.formats import is_dicom_file

_UNSAFE = re.compile(r"[^\w.-]+")
"""What a case id made of a folder's name does not keep; letters of any script stay."""


@dataclass(frozen=True)
class DicomFolders:
    """What lies below a folder, in the order of the paths."""

    cases: tuple[Path, ...]
    """Folders with CT slices, and folders that could not be looked through."""
    left_out: tuple[Path, ...]
    """Folders of other DICOM objects."""


def find_dicom_folders(top: Path, *, series: str | None = None) -> DicomFolders:
    """Look through a folder and everything below it, hidden folders left out.

    Args:
        top: Where to look.
        series: Take only folders that hold this SeriesInstanceUID.
    """
    cases: list[Path] = []
    left_out: list[Path] = []
    for name, folders, files in os.walk(top):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        folder = Path(name)
        if any(is_dicom_file(folder / file) for file in sorted(files)):
            (cases if _has_ct(folder, series) else left_out).append(folder)
    return DicomFolders(tuple(cases), tuple(left_out))


def folder_case_id(folder: Path, *, below: Path | None = None) -> str:
    """Return a case id for a DICOM folder: its name, or its path ``below`` a folder, made safe.

    Args:
        folder: Holds the series.
        below: Folder that was looked through; None, or the folder itself, takes its name.
    """
    folder = folder.resolve()
    parts = () if below is None else folder.relative_to(below.resolve()).parts
    joined = "_".join(_UNSAFE.sub("_", part) for part in parts or (folder.name,))
    return joined.strip("._") or "scan"


def _has_ct(folder: Path, series: str | None) -> bool:
    """Whether a folder is a case; a damaged one is, so that reading it says what is wrong."""
    from samcancer.volume_io.dicom import ct_series_of, holds_ct  # not needed for other formats

    try:
        return holds_ct(folder) if series is None else series in ct_series_of(folder)
    except InputError:
        return True
