"""Which training samples an epoch draws, in which order, decided by (seed, epoch) alone.

Half of the samples or so (``data.lesion_fraction``) have a labelled voxel in a target slice: class,
data set, case and slice are drawn evenly one after the other, so that neither a frequent class nor
a large data set nor a long scan dominates. The rest are drawn from all slices, which are mostly
lesion-free. With ``lesion_fraction`` 0 and no ``samples_per_epoch`` every slice is a target exactly
once, as in [SC] section 3 ("every slice in turn a target").

A plan holds no state: a run that stopped after ``position`` batches of an epoch goes on with the
rest of the same plan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from torch.utils.data import Sampler

from samcancer.errors import InputError

_SEED_BITS = 63
"""Bits of a sample's own seed; fits a signed 64-bit integer."""


_T = TypeVar("_T")


class SampleKey(NamedTuple):
    """One training sample: T target slices from ``start`` on, changed at random by ``seed``."""

    case_id: str
    start: int
    seed: int


@dataclass(frozen=True, slots=True)
class PoolCase:
    """What sampling needs to know of a case."""

    case_id: str
    dataset: str
    slices: int
    positive_slices: Mapping[str, Sequence[int]]
    """Class -> indices of slices with a labelled voxel of it."""


@dataclass(frozen=True)
class SlicePool:
    """All slices an epoch may draw from."""

    cases: tuple[PoolCase, ...]
    slices_per_sample: int = 1
    """Target slices T of a sample."""
    _lesions: dict[str, dict[str, list[PoolCase]]] = field(init=False, repr=False)
    """Class -> data set -> cases with a labelled slice of the class."""

    def __post_init__(self) -> None:
        """Check the cases and group the positive ones."""
        if not self.cases or all(case.slices == 0 for case in self.cases):
            raise InputError(
                "there is no slice to train on", mend="prepare at least one case outside the fold"
            )
        lesions: dict[str, dict[str, list[PoolCase]]] = {}
        for case in self.cases:
            for name, positive in case.positive_slices.items():
                if positive:
                    lesions.setdefault(name, {}).setdefault(case.dataset, []).append(case)
        ordered = {name: dict(sorted(lesions[name].items())) for name in sorted(lesions)}
        object.__setattr__(self, "_lesions", ordered)

    @property
    def slice_count(self) -> int:
        """Number of slices of all cases."""
        return sum(case.slices for case in self.cases)

    @property
    def positive_classes(self) -> tuple[str, ...]:
        """Classes with at least one labelled slice."""
        return tuple(self._lesions)

    def epoch_size(self, samples_per_epoch: int | None) -> int:
        """Return the number of samples of an epoch; None means one target per slice."""
        if samples_per_epoch is not None:
            return samples_per_epoch
        return sum(math.ceil(case.slices / self.slices_per_sample) for case in self.cases)

    def plan_epoch(
        self, seed: int, epoch: int, *, samples_per_epoch: int | None, lesion_fraction: float
    ) -> list[SampleKey]:
        """Return the samples of one epoch in order; equal arguments give equal plans.

        Args:
            seed: The run's seed.
            epoch: Counted from 0.
            samples_per_epoch: None draws as many as cover every slice once.
            lesion_fraction: Share of samples with a labelled voxel in a target slice; without any
                labelled slice all samples are drawn from all slices.
        """
        rng = np.random.default_rng([seed, epoch])
        count = self.epoch_size(samples_per_epoch)
        lesion_count = round(lesion_fraction * count) if self._lesions else 0
        classes = self.positive_classes
        starts = [self._draw_lesion(rng, classes) for _ in range(lesion_count)]
        starts += self._draw_any(rng, count - lesion_count)
        order = rng.permutation(len(starts))
        seeds = rng.integers(0, 1 << _SEED_BITS, size=len(starts), dtype=np.int64)
        return [
            SampleKey(starts[i][0], starts[i][1], int(value))
            for i, value in zip(order, seeds, strict=True)
        ]

    def _draw_lesion(self, rng: np.random.Generator, classes: Sequence[str]) -> tuple[str, int]:
        """Draw class, data set, case and slice, each evenly, and a chunk that holds the slice."""
        name = _pick(rng, classes)
        datasets = self._lesions[name]
        case = _pick(rng, datasets[_pick(rng, tuple(datasets))])
        target = int(_pick(rng, case.positive_slices[name]))
        last = max(case.slices - self.slices_per_sample, 0)
        lowest = max(target - self.slices_per_sample + 1, 0)
        return case.case_id, int(rng.integers(min(lowest, last), min(target, last) + 1))

    def _draw_any(self, rng: np.random.Generator, count: int) -> list[tuple[str, int]]:
        """Draw chunks from all cases, none again before all have been drawn."""
        slices = np.array([case.slices for case in self.cases])
        chunks = -(-slices // self.slices_per_sample)
        ends = np.cumsum(chunks)
        drawn: list[tuple[str, int]] = []
        while len(drawn) < count:
            order = rng.permutation(int(ends[-1]))[: count - len(drawn)]
            owners = np.searchsorted(ends, order, side="right")
            starts = (order - (ends - chunks)[owners]) * self.slices_per_sample
            drawn += [
                (self.cases[i].case_id, start)
                for i, start in zip(owners.tolist(), starts.tolist(), strict=True)
            ]
        return drawn


@dataclass
class EpochSchedule:
    """The batches of every epoch of a run, shared out over the processes of a run.

    ``batch_size`` is that of the whole run: each of ``world_size`` processes takes every
    ``world_size``-th sample of a batch, none twice and none left out, so that an epoch is the same
    on any number of processes. The last batch of an epoch may be smaller than ``world_size``; the
    last processes have no sample of it then.
    """

    pool: SlicePool
    seed: int
    batch_size: int
    samples_per_epoch: int | None = None
    lesion_fraction: float = 0.5
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Check that the batch can be shared out."""
        if self.batch_size % self.world_size:
            count = self.world_size
            raise InputError(
                f"train.batch_size {self.batch_size} cannot be shared by {count} processes",
                mend=f"make it a multiple of {count}, or start another number of processes",
            )

    @property
    def batches_per_epoch(self) -> int:
        """Number of optimisation steps of an epoch."""
        return math.ceil(self.pool.epoch_size(self.samples_per_epoch) / self.batch_size)

    def batches(self, epoch: int, *, position: int = 0) -> list[list[SampleKey]]:
        """Return this process's share of the epoch's batches from number ``position`` on."""
        plan = self.pool.plan_epoch(
            self.seed,
            epoch,
            samples_per_epoch=self.samples_per_epoch,
            lesion_fraction=self.lesion_fraction,
        )
        batches = [plan[i : i + self.batch_size] for i in range(0, len(plan), self.batch_size)]
        return [batch[self.rank :: self.world_size] for batch in batches[position:]]

    def batch_length(self, number: int) -> int:
        """Return the number of samples of an epoch's batch, those of all processes together."""
        size = self.pool.epoch_size(self.samples_per_epoch)
        return min(self.batch_size, size - number * self.batch_size)

    def has_share(self, number: int) -> bool:
        """Return whether this process has a sample of an epoch's batch."""
        return self.rank < self.batch_length(number)


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Feeds a DataLoader with the batches of the epoch it was last set to.

    A process without a sample of a batch gets one all the same, since the network must run in every
    process; the step lets it count for nothing (:meth:`EpochSchedule.has_share`).
    """

    def __init__(self, schedule: EpochSchedule) -> None:
        """Start at the first batch of epoch 0."""
        self.schedule = schedule
        self._epoch = 0
        self._position = 0

    def set_position(self, epoch: int, position: int) -> None:
        """Make the next iteration start at batch ``position`` of ``epoch``."""
        self._epoch, self._position = epoch, position

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield the remaining batches of the epoch."""
        batches = self.schedule.batches(self._epoch, position=self._position)
        if all(batches):
            return iter(batches)
        whole = dataclasses.replace(self.schedule, rank=0, world_size=1).batches(self._epoch)
        return iter([batch or whole[0][:1] for batch in batches])

    def __len__(self) -> int:
        """Return the number of remaining batches of the epoch."""
        return max(self.schedule.batches_per_epoch - self._position, 0)


def _pick(rng: np.random.Generator, items: Sequence[_T]) -> _T:
    return items[int(rng.integers(len(items)))]
