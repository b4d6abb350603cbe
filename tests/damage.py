"""Damage to a file, drawn from a seed: flipped bits, cuts, overwritten runs of bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_LONGEST_RUN = 64
"""Most bytes that :meth:`DamagedCopies.spoil` overwrites."""


class DamagedCopies:
    """Puts a damaged copy in place of a sound file, each time from the sound bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sound = path.read_bytes()

    def flip_a_bit(self, seed: int, *, first_bytes: int | None = None) -> None:
        """Flip one bit, among the first bytes only if a number is given."""
        random = np.random.default_rng(seed)
        damaged = bytearray(self.sound)
        place = int(random.integers(min(len(damaged), first_bytes or len(damaged))))
        damaged[place] ^= 1 << int(random.integers(8))
        self._path.write_bytes(damaged)

    def cut(self, seed: int) -> None:
        """Keep the beginning only, of any length from nothing to all but one byte."""
        kept = int(np.random.default_rng(seed).integers(len(self.sound)))
        self._path.write_bytes(self.sound[:kept])

    def overwrite(self, seed: int) -> None:
        """Put noise over a run of bytes; at least one bit differs."""
        random = np.random.default_rng(seed)
        damaged = bytearray(self.sound)
        place = int(random.integers(len(damaged)))
        end = min(len(damaged), place + int(random.integers(1, _LONGEST_RUN + 1)))
        damaged[place:end] = random.bytes(end - place)
        if damaged == self.sound:
            damaged[place] ^= 1
        self._path.write_bytes(damaged)

    def spoil(self, seed: int) -> None:
        """Flip, cut or overwrite, in turn."""
        (self.flip_a_bit, self.cut, self.overwrite)[seed % 3](seed)

    def restore(self) -> None:
        """Put the sound file back."""
        self._path.write_bytes(self.sound)


@contextlib.contextmanager
def damaged_copies(path: Path) -> Iterator[DamagedCopies]:
    """Yield something that damages the file; afterwards it is sound again."""
    copies = DamagedCopies(path)
    try:
        yield copies
    finally:
        copies.restore()
