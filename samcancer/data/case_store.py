"""Case store: one HDF5 file per case, written once and verified, and an index of all cases.

STORE/store.json      class names (bit order), size S, format version
STORE/taxonomy.yaml   the classes and data sets the store was prepared with
STORE/index.jsonl     one line per verified case, see samcancer.data.store_index
STORE/cases/ID.h5     slices, stacks and labels, see samcancer.data.case_file
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
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
from samcancer.data.slice_reader import ReaderPool, SliceReader
from samcancer.data.store_index import (
    FORMAT_VERSION,
    INDEX_NAME,
    STORE_NAME,
    CaseInfo,
    StoreInfo,
    read_index,
    read_store_info,
    write_index,
    write_store_info,
)
from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.taxonomy import Taxonomy, taxonomy_from_yaml

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
    "read_index",
    "read_store_info",
    "verify_case_file",
    "write_case",
    "write_index",
    "write_store_info",
]

TAXONOMY_NAME = "taxonomy.yaml"

_MEND = "run prepare-slices again"


class CaseStore:
    """The read side of a store: cheap to open, picklable, opens HDF5 in the process that reads."""

    def __init__(self, folder: Path) -> None:
        """Read the index.

        Raises:
            InputError: When the folder holds no store, one of another version, or a bad index.
        """
        self.folder = Path(folder)
        self._info = read_store_info(self.folder)
        found = sorted(read_index(self.folder), key=lambda info: info.case_id)
        self.cases: dict[str, CaseInfo] = {info.case_id: info for info in found}
        self._pool = ReaderPool(self._open)

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
        return taxonomy_from_yaml(self.folder / TAXONOMY_NAME)

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
        lines = [json.dumps(dataclasses.asdict(self._info))]
        lines += [info.to_json() for info in self.cases.values()]
        return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()

    def file_of(self, case_id: str) -> Path:
        """Return the path of a case's HDF5 file."""
        return self.folder / self.cases[case_id].file

    def verify(self, case_ids: Iterable[str] | None = None) -> None:
        """Compare the files of cases (None: of all) with the index, byte for byte.

        Raises:
            InputError: Naming the first file that is missing or changed.
        """
        for case_id in self.cases if case_ids is None else case_ids:
            verify_case_file(self.folder, self.cases[case_id])

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        self._pool.close()

    def _open(self, case_id: str) -> SliceReader:
        if case_id not in self.cases:
            raise InputError(f"holds no case {case_id!r}", path=self.folder)
        return SliceReader(self.file_of(case_id), case_shapes(self.cases[case_id]), mend=_MEND)


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
    path = folder / info.file
    if not path.is_file():
        raise InputError("no such file, though the index lists it", path=path, mend=_MEND)
    if sha256_of(path) != info.file_sha256:
        raise InputError("has changed since it was written", path=path, mend=_MEND)
