"""The part of a cohort that one of several independent jobs does.

A case belongs to part ``sha256(case id) mod N``. That depends on the case id and N alone: not on
the other cases, their order, the machine or the Python version. So jobs of an array need not talk
to each other, and a case that is added later changes no other case's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from samcancer.errors import InputError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """Part ``index`` of ``count``, counted from 0 as Slurm's array index is."""

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse parts that cannot be."""
        if self.count < 1:
            raise InputError(f"--num-parts must be at least 1, got {self.count}")
        if not 0 <= self.index < self.count:
            raise InputError(
                f"--part-id must be 0 to {self.count - 1} with --num-parts {self.count}, "
                f"got {self.index}"
            )

    def holds(self, case_id: str) -> bool:
        """Whether a case belongs to this part."""
        return part_of(case_id, self.count) == self.index

    def of(self, cases: Mapping[str, _T]) -> dict[str, _T]:
        """Return this part's cases, in their order."""
        return {case_id: item for case_id, item in cases.items() if self.holds(case_id)}

    @property
    def name(self) -> str:
        """Part of file names, such as ``part-3-of-8``."""
        return f"part-{self.index}-of-{self.count}"


def part_of(case_id: str, count: int) -> int:
    """Return the part, 0 to ``count`` - 1, that a case belongs to."""
    return int.from_bytes(hashlib.sha256(case_id.encode("utf-8")).digest(), "big") % count
