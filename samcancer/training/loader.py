"""The loader of training batches: workers that open files themselves and fail in one line.

Workers come from a fork server. A plain fork would copy the parent's open HDF5 handles and the
locks of its running torch threads, either of which can hang or corrupt a read; ``spawn`` would
import torch anew for every worker, while the fork server does so once.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from samcancer.data.dataset import LabelledDataset, Sample, collate
from samcancer.data.sampling import EpochBatchSampler, EpochSchedule, SampleKey
from samcancer.errors import InputError
from samcancer.processes import start_as_worker

_PREFETCHED_BATCHES = 4
"""Batches a worker prepares ahead."""

_PRELOADED = ["torch", "albumentations", "samcancer.data.dataset"]
"""Modules the fork server imports once for all workers."""


_LOST_CONNECTION = (ConnectionError, EOFError, FileNotFoundError)
"""What fetching a batch raises when its worker dies between announcing it and handing it over."""


class BatchLoader:
    """Serves the batches of one epoch after the other and keeps the time spent waiting for them."""

    def __init__(
        self,
        dataset: LabelledDataset,
        schedule: EpochSchedule,
        *,
        workers: int,
        device: torch.device,
    ) -> None:
        """Prepare; workers start with the first epoch.

        Args:
            dataset: Makes samples.
            schedule: Says which.
            workers: Processes; 0 loads in this one.
            device: Where batches go.
        """
        self.waiting_s = 0.0
        self._dataset = dataset
        self._device = device
        self._sampler = EpochBatchSampler(schedule)
        self._loader: DataLoader[Any] = DataLoader(
            _FailingAsItem(dataset),
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=_collate_or_first_error,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=_PREFETCHED_BATCHES if workers else None,
            multiprocessing_context=_fork_server() if workers else None,
            worker_init_fn=_start_worker if workers else None,
            generator=torch.Generator(),  # leaves the global random state alone
        )

    def batches(self, epoch: int, *, position: int) -> Iterator[Sample]:
        """Yield the epoch's batches from number ``position`` on, on the device.

        Raises:
            InputError: When a file cannot be read or a worker died.
        """
        self._sampler.set_position(epoch, position)
        iterator: Iterator[Any] | None = None
        while True:
            started = time.perf_counter()
            try:
                iterator = iterator or iter(self._loader)  # which waits for the workers, too
                batch = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _explained(error) from error
            except _LOST_CONNECTION as error:
                if self._loader.num_workers == 0:
                    raise
                raise _died(str(error) or type(error).__name__) from error
            if isinstance(batch, InputError):
                raise batch
            moved = {name: _moved(values, self._device) for name, values in batch.items()}
            self.waiting_s += time.perf_counter() - started
            yield cast(Sample, moved)

    def close(self) -> None:
        """End the workers; no batch can be had afterwards."""
        del self._loader
        self._dataset.close()

    def case_names(self, batch: Sample) -> list[str]:
        """Return the cases of a batch, each once."""
        indices = sorted(set(batch["case_index"].tolist()))
        return [self._dataset.case_ids[i] for i in indices]


class WorkerDiedError(InputError):
    """A loader worker ended without being asked to."""


class _FailingAsItem(Dataset[Any]):
    """Returns an InputError as the item, since torch rewrites errors that leave a worker."""

    def __init__(self, dataset: LabelledDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: SampleKey) -> Sample | InputError:
        try:
            return self._dataset[key]
        except InputError as error:
            return error


def _collate_or_first_error(items: Sequence[Any]) -> Sample | InputError:
    for item in items:
        if isinstance(item, InputError):
            return item
    return collate(items)


def _moved(values: Any, device: torch.device) -> Any:
    """Put a tensor, or each of several, on the device."""
    if isinstance(values, torch.Tensor):
        return values.to(device, non_blocking=True)
    return [value.to(device, non_blocking=True) for value in values]


def _fork_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    start_as_worker()  # torch's own watch looks at the fork server, which stays


def _explained(error: RuntimeError) -> Exception:
    if "DataLoader worker" not in str(error):
        return error
    return _died(str(error).splitlines()[0])


def _died(reason: str) -> WorkerDiedError:
    return WorkerDiedError(
        f"a data loading process died ({reason})",
        mend="use fewer --workers (0 loads in the training process), or give the machine more "
        "memory or a larger /dev/shm",
    )
