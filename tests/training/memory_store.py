"""A case store and ledger in memory, with the interface of samcancer.data, for fast tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("liver_lesion", "kidney_lesion")


@dataclass
class MemoryCase:
    case_id: str
    patient_id: str
    dataset: str
    slices: int
    size: int
    annotated: tuple[str, ...]
    positive_slices: dict[str, list[int]]
    voxel_mm: tuple[float, float, float] = (3.0, 1.5, 1.5)


@dataclass
class MemoryStore:
    """Bright blocks in grey slices; a class is annotated in the cases of its own data set."""

    class_names: tuple[str, ...] = CLASS_NAMES
    size: int = 32
    cases: dict[str, MemoryCase] = field(default_factory=dict)
    hu: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    bits: dict[str, NDArray[np.uint32]] = field(default_factory=dict)

    def add(
        self, case_id: str, *, annotated: tuple[str, ...], lesion: str | None, slices: int = 6
    ) -> None:
        rng = np.random.default_rng(len(self.cases))
        hu = rng.normal(40, 20, (slices + 4, self.size, self.size))
        bits = np.zeros((slices, self.size, self.size), dtype=np.uint32)
        if lesion is not None:
            k = self.class_names.index(lesion)
            row, column = rng.integers(4, self.size // 2, 2)
            hu[3:6, row : row + 8, column : column + 6] += 150
            bits[1:4, row : row + 8, column : column + 6] = 1 << k
        positive = {
            name: [int(z) for z in range(slices) if (bits[z] >> k & 1).any()]
            for k, name in enumerate(self.class_names)
        }
        self.hu[case_id], self.bits[case_id] = hu.astype(np.int16), bits
        self.cases[case_id] = MemoryCase(
            case_id, f"patient_{case_id}", f"Set_{lesion}", slices, self.size, annotated, positive
        )

    def slices_hu(self, case_id: str, start: int, stop: int) -> NDArray[np.int16]:
        return self.hu[case_id][start:stop]

    def label_bits(self, case_id: str, start: int, stop: int) -> NDArray[np.uint32]:
        return self.bits[case_id][start:stop]

    def annotated_bits(self, case_id: str) -> int:
        return sum(1 << self.class_names.index(name) for name in self.cases[case_id].annotated)

    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(a.tobytes() for a in self.hu.values())).hexdigest()


@dataclass
class MemoryLedger:
    store: MemoryStore

    def merged_bits(
        self, case_id: str, start: int, stop: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        labels = self.store.label_bits(case_id, start, stop)
        return labels, np.full_like(labels, self.store.annotated_bits(case_id))


def partly_labelled_store() -> MemoryStore:
    """Two cases that annotate the liver lesion only, two the kidney lesion only, one healthy."""
    store = MemoryStore()
    for name in CLASS_NAMES:
        for number in (1, 2):
            store.add(f"{name}_{number}", annotated=(name,), lesion=name)
    store.add("healthy", annotated=CLASS_NAMES, lesion=None, slices=4)
    return store
