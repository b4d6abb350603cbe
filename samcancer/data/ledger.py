"""Who labelled what: people's labels of the store merged with pseudo labels, class by class.

Store files are never rewritten. Pseudo labels live in a folder of their own, one HDF5 file per
case: ``labels`` and ``known`` uint32 (Z, S, S), bit k for class k of the store, and for each class
the teacher's fold, the SHA-256 of its checkpoint and its confidence. A person's label always wins:
where a person annotated a class, pseudo labels of it are not even looked at. A teacher never
labels a patient it trained on ([SC] section 3, [UM23]).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.data.case_file import (
    class_bits,
    create_slicewise,
    file_image,
    new_memory_file,
    write_bytes_atomic,
)
from samcancer.data.case_store import CaseStore, LabelState
from samcancer.data.slice_reader import ReaderPool, SliceReader
from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX, sha256_of

PSEUDO_FORMAT_VERSION = 1
"""Version of the pseudo-label files; readers refuse any other."""

_SUFFIX = ".h5"

_MEND = "delete it and run pseudo-label again"


@dataclass(frozen=True)
class PseudoEntry:
    """Where the pseudo labels of one class of one case come from."""

    class_name: str
    teacher_fold: int
    checkpoint_sha256: str
    confidence: float
    """In 0..1."""

    def __post_init__(self) -> None:
        """Refuse an origin that cannot be."""
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence of {self.class_name} is {self.confidence}, not 0 to 1")
        if self.teacher_fold < 0:
            raise ValueError(f"teacher_fold of {self.class_name} is {self.teacher_fold}")


def write_pseudo_case(
    path: Path,
    *,
    case_id: str,
    label_bits: NDArray[np.uint32],
    known_bits: NDArray[np.uint32],
    entries: Sequence[PseudoEntry],
) -> None:
    """Write one case's pseudo labels atomically, verified by reading them back.

    Args:
        path: ``RUNS/pseudo_labels/CASE.h5``; an existing file is replaced in one step.
        case_id: The case.
        label_bits: (Z, S, S), bit k set where the voxel is of class k.
        known_bits: (Z, S, S), bit k set where it is decided whether the voxel is of class k.
        entries: One for each class that was labelled.

    Raises:
        InputError: When the folder cannot be written or the disk is full.
    """
    if label_bits.shape != known_bits.shape or label_bits.ndim != 3:
        raise ValueError(f"shapes {label_bits.shape} and {known_bits.shape} are not one (Z, S, S)")
    with new_memory_file() as file:
        create_slicewise(file, "labels", label_bits.astype(np.uint32, copy=False)).flush()
        create_slicewise(file, "known", known_bits.astype(np.uint32, copy=False)).flush()
        content = [dataclasses.asdict(entry) for entry in entries]
        file.attrs["format_version"] = np.int32(PSEUDO_FORMAT_VERSION)
        file.attrs["case_id"] = np.bytes_(case_id.encode("utf-8"))
        file.attrs["entries"] = np.bytes_(json.dumps(content, ensure_ascii=False).encode("utf-8"))
        image = file_image(file)

    def verify(temporary: Path) -> None:
        shapes = {"labels": label_bits.shape, "known": known_bits.shape}
        with SliceReader(temporary, shapes) as reader:
            same = np.array_equal(reader.read("labels", 0, len(label_bits)), label_bits)
            same &= np.array_equal(reader.read("known", 0, len(known_bits)), known_bits)
        if not same:
            raise InputError("reads back differently", path=path, mend="try again")

    write_bytes_atomic(path, image, verify=verify)


class PseudoLabels:
    """The pseudo labels of a folder; picklable, opens files in the process that reads."""

    def __init__(self, folder: Path, store: CaseStore) -> None:
        """List the folder and read every file's entries.

        Raises:
            InputError: When a file is damaged or is not of a case of the store.
        """
        self.folder = Path(folder)
        self._shapes: dict[str, tuple[int, int, int]] = {}
        self._entries: dict[str, tuple[PseudoEntry, ...]] = {}
        self._pool = ReaderPool(self._open)
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            if not path.name.startswith(TEMPORARY_PREFIX):
                self._add(path, store)

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Cases with pseudo labels, sorted."""
        return tuple(sorted(self._entries))

    def entries(self, case_id: str) -> tuple[PseudoEntry, ...]:
        """Return where the labels of a case come from; empty for a case without."""
        return self._entries.get(case_id, ())

    def label_bits(self, case_id: str, start: int, stop: int) -> NDArray[np.uint32]:
        """Read slices start..stop of the labels, (n, S, S)."""
        return self._pool.reader(case_id).read("labels", start, stop)

    def known_bits(self, case_id: str, start: int, stop: int) -> NDArray[np.uint32]:
        """Read slices start..stop of what is decided, (n, S, S)."""
        return self._pool.reader(case_id).read("known", start, stop)

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        self._pool.close()

    def fingerprint(self) -> str:
        """Return the SHA-256 over all files of the folder."""
        lines = [f"{case_id} {sha256_of(self._path(case_id))}" for case_id in self.case_ids]
        return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()

    def _add(self, path: Path, store: CaseStore) -> None:
        case_id = path.name.removesuffix(_SUFFIX)
        if case_id not in store.cases:
            raise InputError(f"the store has no case {case_id!r}", path=path, mend=_MEND)
        info = store.cases[case_id]
        self._shapes[case_id] = (info.slices, info.size, info.size)
        with self._open(case_id) as reader:
            self._entries[case_id] = _read_entries(reader, case_id, store.class_names)

    def _open(self, case_id: str) -> SliceReader:
        if case_id not in self._shapes:
            raise InputError(f"holds no pseudo labels of {case_id!r}", path=self.folder)
        shape = self._shapes[case_id]
        return SliceReader(self._path(case_id), {"labels": shape, "known": shape}, mend=_MEND)

    def _path(self, case_id: str) -> Path:
        return self.folder / f"{case_id}{_SUFFIX}"


class Ledger:
    """What is known of each class in each case, and from whom."""

    def __init__(self, store: CaseStore, pseudo: PseudoLabels | None) -> None:
        """Bind people's labels and, unless None, pseudo labels."""
        self._store, self._pseudo = store, pseudo

    def state(self, case_id: str, class_name: str) -> LabelState:
        """Return who labelled a class in a case."""
        bit = 1 << self._store.class_names.index(class_name)
        if self._store.annotated_bits(case_id) & bit:
            return LabelState.ANNOTATED
        return LabelState.PSEUDO if self._pseudo_bits(case_id) & bit else LabelState.UNKNOWN

    def merged_bits(
        self, case_id: str, start: int, stop: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return labels and what is known of slices start..stop, both (n, S, S) bit fields."""
        labels = self._store.label_bits(case_id, start, stop)
        annotated = np.uint32(self._store.annotated_bits(case_id))
        known = np.full_like(labels, annotated)
        pseudo = np.uint32(self._pseudo_bits(case_id))
        if self._pseudo is not None and pseudo:
            decided = self._pseudo.known_bits(case_id, start, stop) & pseudo
            labels = (labels & annotated) | (
                self._pseudo.label_bits(case_id, start, stop) & decided
            )
            known |= decided
        return labels, known

    def presence_known_bits(self, case_id: str) -> int:
        """Return the bit field of classes that a person or a teacher labelled."""
        return self._store.annotated_bits(case_id) | self._pseudo_bits(case_id)

    def _pseudo_bits(self, case_id: str) -> int:
        """Return the classes with pseudo labels that no person annotated."""
        if self._pseudo is None:
            return 0
        names = [entry.class_name for entry in self._pseudo.entries(case_id)]
        return class_bits(names, self._store.class_names) & ~self._store.annotated_bits(case_id)


def require_unseen(
    patient_id: str, training_patients: Iterable[str], *, case_id: str, teacher_fold: int
) -> None:
    """Refuse a teacher that trained on the patient it is to label.

    Raises:
        InputError: Naming the case and the teacher.
    """
    if patient_id in set(training_patients):
        raise InputError(
            f"case {case_id!r}: the model of fold {teacher_fold} trained on this patient and may "
            "not label it",
            mend="delete folds.json and the runs, and train again",
        )


def _read_entries(
    reader: SliceReader, case_id: str, class_names: Sequence[str]
) -> tuple[PseudoEntry, ...]:
    version = int(reader.attribute("format_version"))
    if version != PSEUDO_FORMAT_VERSION:
        raise InputError(
            f"has format version {version}, this program reads {PSEUDO_FORMAT_VERSION}",
            path=reader.path,
            mend=_MEND,
        )
    stored_id = bytes(reader.attribute("case_id")).decode("utf-8", errors="replace")
    if stored_id != case_id:
        raise InputError(f"holds case {stored_id!r}", path=reader.path, mend=_MEND)
    try:
        content = json.loads(bytes(reader.attribute("entries")).decode("utf-8"))
        entries = tuple(PseudoEntry(**entry) for entry in content)
    except (ValueError, TypeError):
        raise InputError("its entries are damaged", path=reader.path, mend=_MEND) from None
    unknown = [entry.class_name for entry in entries if entry.class_name not in class_names]
    if unknown:
        raise InputError(
            f"labels {unknown[0]!r}, which the store lacks", path=reader.path, mend=_MEND
        )
    return entries
