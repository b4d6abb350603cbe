from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_config
from memory_store import MemoryLedger, MemoryStore, partly_labelled_store
from numpy.typing import NDArray

from samcancer.data.dataset import StackDataset
from samcancer.data.sampling import EpochSchedule, PoolCase, SlicePool
from samcancer.errors import InputError
from samcancer.training.loader import BatchLoader, WorkerDiedError


@dataclass
class DamagedStore(MemoryStore):
    def slices_hu(self, case_id: str, start: int, stop: int) -> NDArray[Any]:
        raise InputError("checksum of a slice differs", path=Path("cases/liver.h5"), mend="redo")


@dataclass
class DyingStore(MemoryStore):
    def slices_hu(self, case_id: str, start: int, stop: int) -> NDArray[Any]:
        os._exit(1)


def loader(kind: type[MemoryStore], *, workers: int) -> BatchLoader:
    store = kind(**vars(partly_labelled_store()))
    config = small_config()
    dataset = StackDataset(
        store,  # type: ignore[arg-type]
        MemoryLedger(store),  # type: ignore[arg-type]
        case_ids=list(store.cases),
        data=config.data,
        augmentation=config.augmentation,
    )
    cases = tuple(
        PoolCase(c.case_id, c.dataset, c.slices, c.positive_slices) for c in store.cases.values()
    )
    schedule = EpochSchedule(SlicePool(cases, 2), seed=0, batch_size=4, samples_per_epoch=8)
    return BatchLoader(dataset, schedule, workers=workers, device=torch.device("cpu"))


def test_batches_have_the_shapes_of_the_contract() -> None:
    batch = next(loader(MemoryStore, workers=0).batches(0, position=0))
    assert {name: (tuple(t.shape), t.dtype) for name, t in batch.items()} == {
        "image": ((4, 6, 32, 32), torch.float32),
        "label_bits": ((4, 2, 32, 32), torch.int32),
        "known_bits": ((4, 2, 32, 32), torch.int32),
        "presence_known": ((4, 2), torch.int32),
        "case_index": ((4,), torch.int64),
        "z": ((4,), torch.int64),
        "seed": ((4,), torch.int64),
    }


def test_workers_serve_epoch_after_epoch_the_batches_of_the_training_process() -> None:
    alone, helped = loader(MemoryStore, workers=0), loader(MemoryStore, workers=2)
    for epoch in (0, 1):
        pairs = zip(
            alone.batches(epoch, position=0), helped.batches(epoch, position=0), strict=True
        )
        for a, b in pairs:
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["label_bits"], b["label_bits"])


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(loader(MemoryStore, workers=0).batches(0, position=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_one_line_naming_it(workers: int) -> None:
    with pytest.raises(InputError, match=r"cases/liver\.h5: checksum of a slice differs") as caught:
        next(loader(DamagedStore, workers=workers).batches(0, position=0))
    assert "\n" not in str(caught.value)


def test_a_dead_worker_is_one_line_with_advice() -> None:
    with pytest.raises(WorkerDiedError, match=r"data loading process died.*fewer --workers"):
        next(loader(DyingStore, workers=1).batches(0, position=0))
