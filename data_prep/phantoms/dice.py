"""Random draws that no library version, platform or number of draws elsewhere can change.

Each structure of a patient draws from its own named child stream, so that adding one structure
leaves the others as they were. Only raw 64-bit words of the Philox generator are used: NumPy
promises that stream for ever, and promises nothing for ``Generator.uniform`` or ``normal``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")

Vector = tuple[float, float, float]
"""A point or direction (x, y, z)."""

_DECIMALS = 6
"""Digits kept of scalars that come from the C library's exp: its last bit differs by platform."""

_BYTES_PER_DRAW = 4
"""Uniform bytes summed into one approximately normal number."""

_BYTE_SUM_MEAN = _BYTES_PER_DRAW * 255 / 2
_BYTE_SUM_DEVIATION = math.sqrt(_BYTES_PER_DRAW * (256**2 - 1) / 12)


class Dice:
    """A stream of random draws, with named child streams."""

    def __init__(self, seed: int, key: Sequence[int] = ()) -> None:
        """Start the stream ``key`` of ``seed``; equal arguments give equal draws."""
        self._seed = seed
        self._key = tuple(key)
        self._bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=self._key))

    def child(self, name: str) -> Dice:
        """Return the child stream called ``name``; it does not depend on what was drawn here."""
        return Dice(self._seed, (*self._key, zlib.crc32(name.encode())))

    def unit(self) -> float:
        """Draw from [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Draw evenly from [low, high)."""
        return low + (high - low) * self.unit()

    def log_uniform(self, low: float, high: float) -> float:
        """Draw evenly on a logarithmic scale from [low, high)."""
        exponent = self.uniform(math.log(low), math.log(high))
        return min(max(round(math.exp(exponent), _DECIMALS), low), high)

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number from low..high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.unit() < probability

    def choice(self, items: Sequence[Item]) -> Item:
        """Draw one of ``items``."""
        return items[self.integer(0, len(items) - 1)]

    def sign(self) -> float:
        """Draw -1.0 or 1.0."""
        return 1.0 if self.chance(0.5) else -1.0

    def direction(self) -> Vector:
        """Draw a unit vector, evenly over the sphere."""
        while True:
            x, y, z = (self.uniform(-1.0, 1.0) for _ in range(3))
            square = x * x + y * y + z * z
            if 0.01 < square <= 1.0:
                length = math.sqrt(square)
                return (x / length, y / length, z / length)

    def near(self, point: Vector, *, spread_mm: float) -> Vector:
        """Draw a point in the cube of half-width ``spread_mm`` around ``point``."""
        x, y, z = (value + self.uniform(-spread_mm, spread_mm) for value in point)
        return (x, y, z)

    def units(self, count: int) -> npt.NDArray[np.float32]:
        """Draw ``count`` numbers from [0, 1) as float32."""
        words = self._bits.random_raw(count) >> np.uint64(40)
        return words.astype(np.float32) * np.float32(2.0**-24)

    def normals(self, count: int) -> npt.NDArray[np.float32]:
        """Draw ``count`` numbers of about standard normal distribution (a sum of four bytes)."""
        words = self._bits.random_raw(-(-count * _BYTES_PER_DRAW // 8))
        octets = words.astype("<u8", copy=False).view(np.uint8)
        total = octets[:count].astype(np.float32)
        for part in range(1, _BYTES_PER_DRAW):
            total += octets[part * count : (part + 1) * count]
        total -= _BYTE_SUM_MEAN
        total *= 1.0 / _BYTE_SUM_DEVIATION
        return total
