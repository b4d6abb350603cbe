"""Folds for cross-validation: by patient, balanced over data sets, written once and reused.

Patients that share a scan (the same file, or the same voxels in another format) count as one, so
that a scan that two data sets publish under different names never lands on both sides. That settles
the fifth inconsistency of [UM] section 3, data overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import CaseInfo
from samcancer.errors import InputError
from samcancer.files import read_json, write_json_atomic

FOLDS_FORMAT_VERSION = 1
"""Version of the file; readers refuse any other."""

_MEND = "delete it and the runs beside it, and train again"


class Folds:
    """Which fold each patient of a store is held out in."""

    def __init__(self, count: int, fold_of_patient: Mapping[str, int], store: CaseStore) -> None:
        """Bind the split to the cases of a store.

        Raises:
            InputError: When the split and the store do not fit, or a patient would be on both
                sides.
        """
        self.count = count
        self._fold_of = dict(fold_of_patient)
        self._case_patients = {name: info.patient_id for name, info in store.cases.items()}
        self._check(store.cases)

    def fold_of(self, patient_id: str) -> int:
        """Return the fold that holds a patient out."""
        return self._fold_of[patient_id]

    def training_cases(self, fold: int) -> list[str]:
        """Return the cases that a fold's model learns from, sorted."""
        self._require_fold(fold)
        return [c for c, patient in self._case_patients.items() if self._fold_of[patient] != fold]

    def held_out_cases(self, fold: int) -> list[str]:
        """Return the cases that a fold's model never sees, sorted."""
        self._require_fold(fold)
        return [c for c, patient in self._case_patients.items() if self._fold_of[patient] == fold]

    def to_dict(self) -> dict[str, object]:
        """Return the content of the file."""
        return {
            "format_version": FOLDS_FORMAT_VERSION,
            "count": self.count,
            "fold_of_patient": dict(sorted(self._fold_of.items())),
        }

    def _require_fold(self, fold: int) -> None:
        if not 0 <= fold < self.count:
            raise ValueError(f"fold must be 0 to {self.count - 1}, got {fold}")

    def _check(self, cases: Mapping[str, CaseInfo]) -> None:
        patients = set(self._case_patients.values())
        missing = sorted(patients - self._fold_of.keys())
        extra = sorted(self._fold_of.keys() - patients)
        if missing or extra:
            fact = f"{len(missing)} patients of the store have no fold"
            fact += f" and {len(extra)} with a fold are not in the store"
            raise InputError(f"{fact}, such as {(missing + extra)[0]!r}")
        for members in patient_groups(cases):
            if len({self._fold_of[patient] for patient in members}) > 1:
                raise InputError(
                    f"patients {', '.join(members)} share a scan and are in different folds",
                    mend="remove folds.json and train the folds anew",
                )


def load_or_create_folds(store: CaseStore, path: Path, *, count: int, seed: int) -> Folds:
    """Read the split of a folder of runs, or make it and write it when there is none yet.

    Args:
        store: The case store.
        path: ``RUNS/folds.json``.
        count: Number of folds.
        seed: Of the split; an existing file keeps its own.

    Raises:
        InputError: When the file does not fit the store or the count, or there are fewer patients
            than folds.
    """
    if not path.exists():
        folds = Folds(count, split_patients(store.cases, count=count, seed=seed), store)
        write_json_atomic(path, folds.to_dict())
    return _read_folds(store, path, count=count)


def split_patients(cases: Mapping[str, CaseInfo], *, count: int, seed: int) -> dict[str, int]:
    """Deal patients to folds so that data sets, cases with each class, and the total spread evenly.

    Large groups of scans are dealt first, each to the fold that has the fewest cases of its data
    sets and classes so far, then the fewest of all.

    Raises:
        InputError: When there are fewer patients than folds.
    """
    groups = patient_groups(cases)
    if len(groups) < count:
        raise InputError(
            f"{count} folds need at least {count} patients, the store has {len(groups)}",
            mend="prepare more patients or set fewer folds",
        )
    number_of: dict[str, int] = {}
    traits: defaultdict[str, list[int]] = defaultdict(list)
    for info in cases.values():
        present = [f"{info.dataset}/{name}" for name, voxels in info.voxels.items() if voxels]
        numbers = [number_of.setdefault(t, len(number_of)) for t in (info.dataset, *present)]
        traits[info.patient_id] += numbers
    shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    content = [[t for patient in members for t in traits[patient]] for members in shuffled]
    fold_of: dict[str, int] = {}
    dealt = np.zeros((count, len(number_of)), np.int64)
    totals = [0] * count
    for i in sorted(range(len(shuffled)), key=lambda i: -len(content[i])):
        numbers = content[i]
        alike = dealt[:, sorted(set(numbers))].sum(axis=1).tolist()
        fold = min(range(count), key=lambda f: (alike[f], totals[f], f))
        np.add.at(dealt[fold], numbers, 1)
        totals[fold] += len(numbers)
        fold_of.update(dict.fromkeys(shuffled[i], fold))
    return fold_of


def patient_groups(cases: Mapping[str, CaseInfo]) -> list[tuple[str, ...]]:
    """Return the patients, those that share a scan together; sorted."""
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]  # keeps long chains from being walked again
            patient = parent[patient]
        return patient

    first_with: dict[str, str] = {}
    for info in cases.values():  # once: the cases of a large store are read from its index anew
        patient = info.patient_id
        parent.setdefault(patient, patient)
        for digest in (info.source_sha256, info.content_sha256):
            a, b = root(patient), root(first_with.setdefault(digest, patient))
            parent[max(a, b)] = min(a, b)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for patient in sorted(parent):
        members[root(patient)].append(patient)
    return sorted(tuple(patients) for patients in members.values())


def _read_folds(store: CaseStore, path: Path, *, count: int) -> Folds:
    content = read_json(path)
    try:
        version, stored_count = content["format_version"], int(content["count"])
        fold_of = {str(k): int(v) for k, v in content["fold_of_patient"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError("is not a table of folds", path=path, mend=_MEND) from None
    if version != FOLDS_FORMAT_VERSION:
        raise InputError(f"has format version {version}", path=path, mend=_MEND)
    if stored_count != count or set(fold_of.values()) != set(range(count)):
        raise InputError(
            f"has {stored_count} folds, the configuration {count}",
            path=path,
            mend=f"set folds={stored_count}, or delete it and the runs beside it",
        )
    try:
        return Folds(count, fold_of, store)
    except InputError as error:
        raise InputError(error.fact, path=path, mend=_MEND) from None
