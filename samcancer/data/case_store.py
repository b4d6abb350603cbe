"""Case store: one HDF5 file per case, written once and verified, and an index of all cases.

STORE/store.json      class names (bit order), size S, format version
STORE/taxonomy.yaml   the classes and data sets the store was prepared with
STORE/index.jsonl     one line per verified case, see samcancer.data.store_index
STORE/cases/DATASET/SHARD/ID.h5   slices, stacks and labels, see samcancer.data.case_file

A folder may also name stores to be read as one, see samcancer.data.joined_stores, or stand for one
on a server, see samcancer.data.remote_store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.config import SLICE_CONTEXT
from samcancer.data.case_file import (
    CASES_NAME,
    case_file_bytes,
    case_shapes,
    class_bits,
    write_case,
)
from samcancer.data.case_table import CaseTable
from samcancer.data.joined_stores import (
    TAXONOMY_NAME,
    common_info,
    common_taxonomy,
    common_taxonomy_yaml,
    is_store,
    store_folders,
)
from samcancer.data.remote_store import remote_files
from samcancer.data.slice_reader import ReaderPool, SliceReader
from samcancer.data.store_index import (
    FORMAT_VERSION,
    INDEX_NAME,
    STORE_NAME,
    CaseInfo,
    StoreInfo,
    read_store_info,
    write_index,
    write_store_info,
)
from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.taxonomy import Taxonomy

__all__ = [
    "CASES_NAME",
    "FORMAT_VERSION",
    "INDEX_NAME",
    "STORE_NAME",
    "TAXONOMY_NAME",
    "CaseInfo",
    "CaseStore",
    "LabelState",
    "StoreInfo",
    "case_file_bytes",
    "class_bits",
    "is_store",
    "read_store_info",
    "verify_case_file",
    "write_case",
    "write_index",
    "write_store_info",
]

_MEND = "run prepare-slices again"

_OPENINGS = 3
"""Times a fetched file is opened: another process may delete it in between, to make room."""


class CaseStore:
    """The read side of a store: cheap to open, picklable, opens HDF5 in the process that reads."""

    def __init__(self, folder: Path) -> None:
        """Read the index.

        Raises:
            InputError: When the folder holds no store, one of another version, or a bad index.
        """
        self.folder = Path(folder)
        self._folders = store_folders(self.folder)
        self._info = common_info(self._folders)
        self._table = CaseTable(self._folders)
        self._remote = {part: remote_files(part) for part in self._folders}
        self._pool = ReaderPool(self._open)

    @property
    def cases(self) -> Mapping[str, CaseInfo]:
        """Case id -> what the index says of it, sorted; read when asked for."""
        return self._table

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in bit order."""
        return self._info.class_names

    @property
    def size(self) -> int:
        """Pixels S per side."""
        return self._info.size

    def taxonomy(self) -> Taxonomy:
        """Return the classes and data sets that the store was prepared with."""
        return common_taxonomy(self._folders, self.class_names)

    def taxonomy_yaml(self) -> str:
        """Return :meth:`taxonomy` as YAML."""
        return common_taxonomy_yaml(self._folders, self.class_names)

    def slices_hu(self, case_id: str, start: int, stop: int) -> NDArray[np.int16]:
        """Read padded slices start..stop as (n, S, S); slice z of the case is padded z + 2.

        Raises:
            InputError: When the file is missing or damaged.
            ValueError: When the range leaves the case.
        """
        return self._pool.reader(case_id).read("slices", start, stop)

    def stack_hu(self, case_id: str, z: int) -> NDArray[np.int16]:
        """Read slice z with two neighbours on either side, (5, S, S): row z of ``stacks``."""
        return self.slices_hu(case_id, z, z + 2 * SLICE_CONTEXT + 1)

    def label_bits(self, case_id: str, start: int, stop: int) -> NDArray[np.uint32]:
        """Read the people's labels of slices start..stop as (n, S, S) bit fields."""
        return self._pool.reader(case_id).read("labels", start, stop)

    def annotated_bits(self, case_id: str) -> int:
        """Return the bit field of the classes that a person annotated."""
        return class_bits(self.cases[case_id].annotated, self.class_names)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the index, which holds every file's own."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self._info)).encode("utf-8"))
        for text in self._table.texts():
            digest.update(b"\n")
            digest.update(text)
        return digest.hexdigest()

    def file_of(self, case_id: str) -> Path:
        """Return the path of a case's HDF5 file on this machine, fetched if it is elsewhere.

        Raises:
            InputError: When it cannot be fetched.
        """
        info, folder = self.cases[case_id], self._table.folder_of(case_id)
        remote = self._remote[folder]
        return folder / info.file if remote is None else remote.path_of(info)

    def verify(self, case_ids: Iterable[str] | None = None) -> None:
        """Compare the files of cases (None: of all) with the index, byte for byte.

        Raises:
            InputError: Naming the first file that is missing or changed.
        """
        for case_id in self.cases if case_ids is None else case_ids:
            _verify_file(self.file_of(case_id), self.cases[case_id])

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        self._pool.close()

    def _open(self, case_id: str) -> SliceReader:
        if case_id not in self.cases:
            raise InputError(f"holds no case {case_id!r}", path=self.folder)
        shapes = case_shapes(self.cases[case_id])
        for _ in range(_OPENINGS - 1):
            path = self.file_of(case_id)
            try:
                return SliceReader(path, shapes, mend=_MEND)
            except InputError:
                if path.is_file() or self._remote[self._table.folder_of(case_id)] is None:
                    raise
        return SliceReader(self.file_of(case_id), shapes, mend=_MEND)


class LabelState(str, Enum):
    """What is known of a class in a case."""

    ANNOTATED = "annotated"
    """A person labelled it, or found none."""
    PSEUDO = "pseudo"
    """A model that had not seen the patient labelled it."""
    UNKNOWN = "unknown"


def verify_case_file(folder: Path, info: CaseInfo) -> None:
    """Compare one case's file with its SHA-256.

    Raises:
        InputError: When it is missing or changed.
    """
    _verify_file(folder / info.file, info)


def _verify_file(path: Path, info: CaseInfo) -> None:
    if not path.is_file():
        raise InputError("no such file, though the index lists it", path=path, mend=_MEND)
    if sha256_of(path) != info.file_sha256:
        raise InputError("has changed since it was written", path=path, mend=_MEND)
