"""Slice numbers as runs: an organ's 70 slices are two numbers, in the index and in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class SliceRuns(Sequence[int]):
    """Rising slice numbers, read like a tuple and kept as runs."""

    __slots__ = ("_bounds", "_length")

    def __init__(self, bounds: Iterable[int]) -> None:
        """Take start, stop, start, stop, ... of the runs; stops are not part of them.

        Raises:
            ValueError: When the bounds do not rise, or a run lacks its stop.
        """
        self._bounds = tuple(bounds)
        if len(self._bounds) == 2:  # nearly all are one run, and there are millions of them
            start, stop = self._bounds
            self._length, wrong = stop - start, not 0 <= start < stop
        else:
            starts, stops = self._bounds[::2], self._bounds[1::2]
            rising = all(a < b for a, b in itertools.pairwise(self._bounds))
            self._length = sum(stops) - sum(starts)
            wrong = len(starts) != len(stops) or not rising or min(starts, default=0) < 0
        if wrong:
            raise ValueError(f"runs must be rising pairs of start and stop, got {self._bounds}")

    @classmethod
    def of(cls, indices: Iterable[int]) -> SliceRuns:
        """Return the runs of rising slice numbers."""
        if isinstance(indices, cls):
            return indices
        bounds: list[int] = []
        for index in indices:
            if bounds and bounds[-1] == index:
                bounds[-1] += 1
            else:
                bounds += [index, index + 1]
        return cls(bounds)

    @property
    def bounds(self) -> tuple[int, ...]:
        """Start, stop, start, stop, ... of the runs."""
        return self._bounds

    def __len__(self) -> int:
        """Return the number of slices."""
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...

    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        """Return the slice number at a place, or those of a range of places."""
        if isinstance(index, slice):
            return tuple(self)[index]
        place = index + self._length if index < 0 else index
        if place >= 0:
            for start, stop in self._pairs():
                if place < stop - start:
                    return start + place
                place -= stop - start
        raise IndexError(f"place {index} of {self._length} slices")

    def __iter__(self) -> Iterator[int]:
        """Yield the slice numbers."""
        return itertools.chain.from_iterable(itertools.starmap(range, self._pairs()))

    def __contains__(self, value: object) -> bool:
        """Return whether a slice is one of them."""
        return any(value in range(start, stop) for start, stop in self._pairs())

    def __eq__(self, other: object) -> bool:
        """Compare with other runs, or with plain slice numbers."""
        if isinstance(other, SliceRuns):
            return self._bounds == other._bounds
        return isinstance(other, (list, tuple)) and list(self) == list(other)

    def __hash__(self) -> int:
        """Return the same for equal runs."""
        return hash(self._bounds)

    def __repr__(self) -> str:
        """Return the runs as they were given."""
        return f"SliceRuns({list(self._bounds)})"

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return zip(self._bounds[::2], self._bounds[1::2], strict=True)
