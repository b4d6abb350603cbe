"""The index of a case store: what is known of each case without opening its file.

STORE/store.json holds what all cases share, STORE/index.jsonl one line per verified case. A line is
appended when the case's file is complete; at the end the index is written again, sorted. A line
holds no fact twice: what follows from the scan's grid is computed, and slices are runs. A part of a
cohort, prepared by a job of its own, has an index of its own until a whole run merges them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer.cohort.partition import Part
from samcancer.data.slice_runs import SliceRuns
from samcancer.errors import InputError
from samcancer.files import (
    append_line,
    is_safe_name,
    read_json,
    safe_name,
    write_json_atomic,
    write_text_atomic,
)
from samcancer.geometry import Geometry, canonical_grid
from samcancer.inplane import InPlaneGrid, in_plane_grid

FORMAT_VERSION = 2
"""Version of the store's layout that is written."""

READABLE_VERSIONS = (1, FORMAT_VERSION)
"""Versions that are read. Lines of the first spelled out every slice number, and all files lay in
one folder; prepare-slices brings the index of such a store to the present form."""

STORE_NAME = "store.json"

INDEX_NAME = "index.jsonl"

CASES_NAME = "cases"
"""Folder of the cases' files, inside the store."""

SHARDS = 16
"""Folders that the files of one data set are spread over, so that none holds all of them."""

_MEND = "run prepare-slices again"

_CHECK_DIGITS = 16
"""Hexadecimal digits of a line's SHA-256 that the line itself carries."""

_CHECK_START = b'{"check": "'
"""How a line with a check begins; lines of the first stores have none."""

_CHECK_END = b'", '

_REST_AT = len(_CHECK_START) + _CHECK_DIGITS + len(_CHECK_END)
"""Where the text begins that a check is of."""

_ID_START = b'"case_id": "'
"""How that text begins."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_DERIVED = ("canonical_geometry", "grid")
"""What lines of the first stores said besides, though it follows from the geometry."""

_COUNTS = ("voxels", "volume_ml", "lesions", "positive_slices")
"""What is known of an annotated class, in the order of its list in a line."""

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
    voxels: Mapping[str, int]
    """Annotated class -> voxels of the source."""
    volume_ml: Mapping[str, float]
    lesions: Mapping[str, int]
    """Annotated class -> connected components (26 neighbours) of the source."""
    positive_slices: Mapping[str, Sequence[int]]
    """Annotated class -> slices with at least one labelled pixel in the store."""

    @cached_property
    def canonical_geometry(self) -> Geometry:
        """The grid of the source turned as the store's slices are."""
        return canonical_grid(self.geometry)[0]

    @cached_property
    def grid(self) -> InPlaneGrid:
        """How the slices were resized in plane."""
        return in_plane_grid(self.canonical_geometry, self.size)

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Distance of the store's slices, rows and columns."""
        return self.canonical_geometry.spacing_mm[2], self.grid.pixel_mm, self.grid.pixel_mm

    def to_json(self) -> str:
        """Return the index line, without a line end; what of a class is not known is null.

        Raises:
            ValueError: When something is told of a class that is not annotated.
        """
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        counts = [content.pop(name) for name in _COUNTS]
        stray = {name for count in counts for name in count} - set(self.annotated)
        if stray:
            raise ValueError(f"{self.case_id!r} does not annotate {', '.join(sorted(stray))}")
        content["geometry"] = self.geometry.to_dict()
        content["annotated"] = {
            name: [
                *(count.get(name) for count in counts[:-1]),
                _bounds(self.positive_slices.get(name)),
            ]
            for name in self.annotated
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> CaseInfo:
        """Read :meth:`to_json`'s form; ValueError, TypeError or KeyError when it is not that."""
        content = json.loads(line)
        content["geometry"] = Geometry.from_dict(content["geometry"])
        annotated = content["annotated"]
        content["annotated"] = tuple(annotated)
        if isinstance(annotated, list):
            for name in _DERIVED:
                del content[name]
            runs = {k: SliceRuns.of(v) for k, v in content["positive_slices"].items()}
            content["positive_slices"] = runs
        else:
            content.update(_counts_of(annotated))
        info = cls(**content)
        if info.file not in ("", *_files_of(info.case_id, info.dataset)) or (
            info.file_sha256 and not _SHA256.fullmatch(info.file_sha256)
        ):
            raise _ElsewhereError(
                f"says that case {info.case_id!r} is {info.file!r}, which is no file of a store"
            )
        return info


def case_file_name(case_id: str, dataset: str) -> str:
    """Return the HDF5 file of a case, relative to the store: cases/DATASET/SHARD/ID.h5.

    The shard follows from the case's name alone, so that it does not depend on what else is in the
    store, nor on the order in which cases were prepared.
    """
    name = safe_name(dataset)
    if name != dataset:  # two names may not become one folder
        name += f"-{hashlib.sha256(dataset.encode('utf-8')).hexdigest()[:8]}"
    shard = hashlib.sha256(case_id.encode("utf-8")).digest()[0] % SHARDS
    return f"{CASES_NAME}/{name}/{shard:x}/{case_id}.h5"


class IndexLine(NamedTuple):
    """A line whose check, if it has one, is right."""

    number: int
    """Counted from 1."""
    case_id: str
    text: bytes
    """JSON of the case, without the check."""


@dataclass(frozen=True)
class StoreInfo:
    """What all cases of a store share."""

    class_names: tuple[str, ...]
    """In bit order."""
    size: int
    format_version: int = FORMAT_VERSION


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
    if info.format_version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise InputError(
            f"has format version {info.format_version}, this program reads {readable}",
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


def whole_index(folder: Path) -> Path:
    """Return the index of a store to read from.

    Raises:
        InputError: When parts are not merged into it yet.
    """
    if parts := part_indexes(folder):
        raise InputError(
            f"{len(parts)} parts of its cases are not in its index yet",
            path=folder,
            mend="run prepare-slices once more without --num-parts",
        )
    return folder / INDEX_NAME


def read_index_file(path: Path, *, drop_damaged: bool = False) -> list[CaseInfo]:
    """Read one index in file order; a file that is not there has no cases.

    Args:
        path: Of the whole store or of a part.
        drop_damaged: Leave out lines that are changed, or cut short as by a killed writer, for
            their cases to be prepared again.

    Raises:
        InputError: Naming the first bad line.
    """
    found = []
    for line in index_lines(path, drop_damaged=drop_damaged):
        try:
            found.append(parse_line(path, line))
        except InputError:
            if not drop_damaged:
                raise
            _warn_of(path, line.number)
    return found


def index_lines(path: Path, *, drop_damaged: bool = False) -> Iterator[IndexLine]:
    """Yield the lines whose checks are right, in file order; nothing else of them is read.

    Raises:
        InputError: Naming the first bad line; with ``drop_damaged`` bad ones are left out.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                if not drop_damaged:
                    raise InputError("its last line is not complete", path=path, mend=_MEND)
                return
            try:
                case_id, text = _checked(line[:-1])
            except (ValueError, TypeError, KeyError, RecursionError):
                if not drop_damaged:
                    raise InputError(f"line {number} is damaged", path=path, mend=_MEND) from None
                _warn_of(path, number)
                continue
            yield IndexLine(number, case_id, text)


def parse_line(path: Path, line: IndexLine) -> CaseInfo:
    """Return what a line says.

    Raises:
        InputError: Naming the line when it is no case's, or names a file that is no store's.
    """
    try:
        return CaseInfo.from_json(line.text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        fact = str(error) if isinstance(error, _ElsewhereError) else "is damaged"
        raise InputError(f"line {line.number} {fact}", path=path, mend=_MEND) from None


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
    check = _check(rest.encode("utf-8"))
    return f"{(_CHECK_START + check + _CHECK_END).decode('ascii')}{rest}"


def _checked(line: bytes) -> tuple[str, bytes]:
    """Return a line's case and its text without the check; ValueError when it was changed."""
    text = line
    if line.startswith(_CHECK_START):
        rest = line[_REST_AT:]
        if line[:_REST_AT] != _CHECK_START + _check(rest) + _CHECK_END:
            raise ValueError("the line has changed since it was written")
        text = b"{" + rest
        end = rest.find(b'"', len(_ID_START))
        case_id = rest[len(_ID_START) : end]
        if rest.startswith(_ID_START) and end > 0 and b"\\" not in case_id:
            return case_id.decode("utf-8"), text
        return str(json.loads(text)["case_id"]), text
    return CaseInfo.from_json(text).case_id, text


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECK_DIGITS].encode("ascii")


def _warn_of(path: Path, number: int) -> None:
    _log.warning("line %d of %s is damaged: its case is prepared again", number, path.name)


class _ElsewhereError(ValueError):
    """A line that names a file outside of the store; never one that was merely damaged."""


def _files_of(case_id: str, dataset: str) -> tuple[str, ...]:
    """Return where a case's file may lie: as now, or as in the first stores."""
    if not is_safe_name(case_id):
        return ()
    return case_file_name(case_id, dataset), f"{CASES_NAME}/{case_id}.h5"


def _bounds(indices: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if indices is None else SliceRuns.of(indices).bounds


def _counts_of(annotated: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return the counts of each class, those that are known."""
    voxels, volume_ml, lesions, positive = ({} for _ in _COUNTS)
    for name, (voxel_count, volume, lesion_count, runs) in annotated.items():
        if voxel_count is not None:
            voxels[name] = voxel_count
        if volume is not None:
            volume_ml[name] = volume
        if lesion_count is not None:
            lesions[name] = lesion_count
        if runs is not None:
            positive[name] = SliceRuns(runs)
    return dict(zip(_COUNTS, (voxels, volume_ml, lesions, positive), strict=True))
