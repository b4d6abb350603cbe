"""Chunks of a case's slices, the next one read while the network works on the present one.

A chunk of T target slices is T + 4 padded slices; target t is padded slice t + 2. Slices come as
int16 HU, (slice, row, column), as an array or as a tensor that is on its device already.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcancer.config import SLICE_CONTEXT

SlicesHu = NDArray[np.int16] | Tensor
"""(T + 4, S, S) int16 HU."""


class SliceSource(Protocol):
    """Padded slices of one case, read a few at a time: an array, or something lazy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z + 4, S, S)."""

    def __getitem__(self, index: slice, /) -> SlicesHu:
        """Return the padded slices of a contiguous range; called from one thread, in order."""


class Chunk(NamedTuple):
    """The target slices ``start`` to ``stop`` of a case."""

    start: int
    slices_hu: Tensor
    """(T + 4, S, S) int16."""

    @property
    def targets(self) -> int:
        """T."""
        return len(self.slices_hu) - 2 * SLICE_CONTEXT

    @property
    def stop(self) -> int:
        """First slice that is no target any more."""
        return self.start + self.targets

    def part(self, first: int, stop: int) -> Chunk:
        """Return the chunk of the targets ``first`` to ``stop``, counted from 0."""
        return Chunk(self.start + first, self.slices_hu[first : stop + 2 * SLICE_CONTEXT])

    def body(self, air_hu: float) -> tuple[int, int]:
        """Return the range of targets that is left when air is taken off both ends.

        A target is air when none of the five slices of its stack holds a voxel above ``air_hu``.
        The range is empty, (T, T), when all are.
        """
        bright = self.slices_hu.amax(dim=(1, 2)) > air_hu
        stacks = bright.unfold(0, 2 * SLICE_CONTEXT + 1, 1).any(dim=1)
        places = stacks.nonzero().flatten().tolist()
        return (places[0], places[-1] + 1) if places else (self.targets, self.targets)


def read_chunks(source: NDArray[np.int16] | SliceSource, *, batch: int) -> Iterator[Chunk]:
    """Yield all slices of a case in chunks of ``batch`` targets, reading one chunk ahead."""
    slice_count = source.shape[0] - 2 * SLICE_CONTEXT

    def read(start: int) -> Chunk:
        found = source[start : min(start + batch, slice_count) + 2 * SLICE_CONTEXT]
        return Chunk(start, found if isinstance(found, Tensor) else torch.from_numpy(found))

    with ThreadPoolExecutor(1, thread_name_prefix="read-chunks") as reader:
        starts = iter(range(0, slice_count, batch))
        ahead = reader.submit(read, next(starts))
        for start in starts:
            chunk, ahead = ahead.result(), reader.submit(read, start)
            yield chunk
        yield ahead.result()
