"""Category-balanced choice of training cases: so many of each class at most, from all its sources.

[LV] trains on at most 120 cases of a category. A case belongs to every class that it shows; cases
that show none are a category of their own. Categories are filled from the rarest to the most
frequent, the cases that are in already counted, drawn from the data sets in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

NO_CLASS = ""
"""Category of the cases that show no class."""


class SelectableCase(Protocol):
    """What the choice needs to know of a case; a case store's index has it."""

    @property
    def dataset(self) -> str:
        """Where the case comes from."""

    @property
    def positive_slices(self) -> Mapping[str, Sequence[int]]:
        """Class -> slices that show it."""


def balanced_cases(cases: Mapping[str, SelectableCase], *, most: int, seed: int) -> tuple[str, ...]:
    """Return the chosen case ids, sorted; equal arguments give equal choices.

    Args:
        cases: Case id -> case.
        most: Cases of a category.
        seed: Of the draw within a data set.
    """
    categories: dict[str, list[str]] = {}
    source_of: dict[str, str] = {}
    for case_id in sorted(cases):  # once: the cases of a large store are read from its index anew
        case = cases[case_id]
        source_of[case_id] = case.dataset
        shown = [name for name, slices in case.positive_slices.items() if slices]
        for name in shown or [NO_CLASS]:
            categories.setdefault(name, []).append(case_id)
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for name in sorted(categories, key=lambda n: (len(categories[n]), n)):
        missing = most - len(chosen.intersection(categories[name]))
        open_cases = [c for c in categories[name] if c not in chosen]
        chosen.update(_from_sources_in_turn(open_cases, source_of, max(missing, 0), rng))
    return tuple(sorted(chosen))


def _from_sources_in_turn(
    case_ids: Sequence[str],
    source_of: Mapping[str, str],
    count: int,
    rng: np.random.Generator,
) -> list[str]:
    sources: dict[str, list[str]] = {}
    for i in rng.permutation(len(case_ids)):
        sources.setdefault(source_of[case_ids[i]], []).append(case_ids[i])
    rounds = itertools.zip_longest(*(sources[name] for name in sorted(sources)))
    in_turn = [case_id for cases_of_round in rounds for case_id in cases_of_round if case_id]
    return in_turn[:count]
