"""The index of a case store: what is known of each case without opening its file.

STORE/store.json holds what all cases share, STORE/index.jsonl one line per verified case. A line is
appended when the case's file is complete; at the end the index is written again, sorted. A part of
a cohort, prepared by a job of its own, has an index of its own until a whole run merges them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.cohort.partition import Part
from samcancer.errors import InputError
from samcancer.files import (
    append_line,
    is_safe_name,
    read_json,
    write_json_atomic,
    write_text_atomic,
)
from samcancer.geometry import Geometry
from samcancer.inplane import InPlaneGrid

FORMAT_VERSION = 1
"""Version of the store's layout; readers refuse any other."""

STORE_NAME = "store.json"

INDEX_NAME = "index.jsonl"

CASES_NAME = "cases"
"""Folder of the cases' files, inside the store."""

_MEND = "run prepare-slices again"

_CHECK_DIGITS = 16
"""Hexadecimal digits of a line's SHA-256 that the line itself carries."""

_CHECK_START = '{"check": "'
"""How a line with a check begins; lines of the first stores have none."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaseInfo:
    """One line of the index."""

    case_id: str
    patient_id: str
    dataset: str
    file: str = ""
    """HDF5 file, relative to the store."""
    file_sha256: str = ""
    source_sha256: str
    """Of the scan's file, or of a DICOM series' files in slice order."""
    label_sha256: str | None
    """None for a case without labels."""
    content_sha256: str
    """Of the canonical voxels: equal for the same scan in another file format or orientation."""
    slices: int
    size: int
    annotated: tuple[str, ...]
    geometry: Geometry
    """Of the source as stored on disk."""
    canonical_geometry: Geometry
    grid: InPlaneGrid
    voxels: dict[str, int]
    """Annotated class -> voxels of the source."""
    volume_ml: dict[str, float]
    lesions: dict[str, int]
    """Annotated class -> connected components (26 neighbours) of the source."""
    positive_slices: dict[str, list[int]]
    """Annotated class -> slices with at least one labelled pixel in the store."""

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Distance of the store's slices, rows and columns."""
        return self.canonical_geometry.spacing_mm[2], self.grid.pixel_mm, self.grid.pixel_mm

    def to_json(self) -> str:
        """Return the index line, without a line end."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("geometry", "canonical_geometry", "grid"):
            content[name] = content[name].to_dict()
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> CaseInfo:
        """Read :meth:`to_json`'s form; ValueError, TypeError or KeyError when it is not that."""
        content = json.loads(line)
        content["annotated"] = tuple(content["annotated"])
        content["grid"] = InPlaneGrid.from_dict(content["grid"])
        for name in ("geometry", "canonical_geometry"):
            content[name] = Geometry.from_dict(content[name])
        return cls(**content)


@dataclass(frozen=True)
class StoreInfo:
    """What all cases of a store share."""

    class_names: tuple[str, ...]
    """In bit order."""
    size: int
    format_version: int = FORMAT_VERSION


def case_file_name(case_id: str) -> str:
    """Return the HDF5 file of a case, relative to the store."""
    return f"{CASES_NAME}/{case_id}.h5"


def content_sha256(canonical_hu: NDArray[np.int16]) -> str:
    """Return the SHA-256 of a scan's voxels in canonical orientation, whatever file held them.

    Args:
        canonical_hu: (slice, row, column), C-contiguous.
    """
    digest = hashlib.sha256(repr(canonical_hu.shape).encode("ascii"))
    digest.update(canonical_hu.astype("<i2", copy=False).data)
    return digest.hexdigest()


def read_store_info(folder: Path) -> StoreInfo:
    """Read store.json.

    Raises:
        InputError: When there is none or it is of another version.
    """
    path = folder / STORE_NAME
    if not path.is_file():
        raise InputError(
            f"is not a case store (no {STORE_NAME})", path=folder, mend="run prepare-slices"
        )
    content = read_json(path)
    try:
        info = StoreInfo(
            tuple(content["class_names"]), int(content["size"]), int(content["format_version"])
        )
    except (KeyError, TypeError, ValueError):
        raise InputError("is not a store description", path=path, mend=_MEND) from None
    if info.format_version != FORMAT_VERSION:
        raise InputError(
            f"has format version {info.format_version}, this program reads {FORMAT_VERSION}",
            path=path,
            mend="prepare the store again with this version",
        )
    return info


def write_store_info(folder: Path, info: StoreInfo) -> None:
    """Write store.json."""
    write_json_atomic(folder / STORE_NAME, dataclasses.asdict(info))


def part_index_name(part: Part) -> str:
    """Return the name of the index that a part of a cohort writes until all parts are merged."""
    return f"index.{part.name}.jsonl"


def part_indexes(folder: Path) -> list[Path]:
    """Return the indexes of parts that are not merged into the store's, sorted."""
    return sorted(folder.glob("index.part-*-of-*.jsonl"))


def read_index(folder: Path) -> list[CaseInfo]:
    """Read the index of a whole store in file order; a store without one has no cases.

    Raises:
        InputError: Naming the first bad line, or when parts are not merged into it yet.
    """
    if parts := part_indexes(folder):
        raise InputError(
            f"{len(parts)} parts of its cases are not in its index yet",
            path=folder,
            mend="run prepare-slices once more without --num-parts",
        )
    return read_index_file(folder / INDEX_NAME)


def read_index_file(path: Path, *, drop_damaged: bool = False) -> list[CaseInfo]:
    """Read one index in file order; a file that is not there has no cases.

    Args:
        path: Of the whole store or of a part.
        drop_damaged: Leave out lines that are changed, or cut short as by a killed writer, for
            their cases to be prepared again.

    Raises:
        InputError: Naming the first bad line.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    if torn and not drop_damaged:
        raise InputError("its last line is not complete", path=path, mend=_MEND)
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_parse_line(line.decode("utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if not drop_damaged:
                fact = str(error) if isinstance(error, _ElsewhereError) else "is damaged"
                raise InputError(f"line {number} {fact}", path=path, mend=_MEND) from None
            _log.warning("line %d of %s is damaged: its case is prepared again", number, path.name)
    return found


def write_index(folder: Path, cases: Iterable[CaseInfo], *, name: str = INDEX_NAME) -> None:
    """Write the whole index, or that of a part, sorted by case."""
    ordered = sorted(cases, key=lambda info: info.case_id)
    write_text_atomic(folder / name, "".join(f"{_line(info)}\n" for info in ordered))


def append_to_index(folder: Path, info: CaseInfo, *, name: str = INDEX_NAME) -> None:
    """Add one finished case, safely on disk when this returns; one process at a time."""
    append_line(folder / name, _line(info))


def _line(info: CaseInfo) -> str:
    """Return a case's line: :meth:`CaseInfo.to_json` with a check of its own text in front."""
    rest = info.to_json()[1:]
    return f'{_CHECK_START}{_check(rest)}", {rest}'


def _parse_line(line: str) -> CaseInfo:
    if line.startswith(_CHECK_START):
        check, _, rest = line.removeprefix(_CHECK_START).partition('", ')
        if check != _check(rest):
            raise ValueError("the line has changed since it was written")
        line = f"{{{rest}"
    info = CaseInfo.from_json(line)
    if not is_safe_name(info.case_id) or info.file != case_file_name(info.case_id):
        raise _ElsewhereError(
            f"says that case {info.case_id!r} is {info.file!r}, which is no file of a store"
        )
    return info


class _ElsewhereError(ValueError):
    """A line that names a file outside of the store; never one that was merely damaged."""


def _check(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_CHECK_DIGITS]
