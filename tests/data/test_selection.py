"""The balanced choice of cases: limits, sources in turn, and cases of several categories."""

from __future__ import annotations

from dataclasses import dataclass, field

from samcancer.data.selection import balanced_cases


@dataclass
class Case:
    dataset: str
    positive_slices: dict[str, list[int]] = field(default_factory=dict)


def cases(**counts: int) -> dict[str, Case]:
    """Return so many cases for each ``dataset__class``; a class ``none`` is no class."""
    made = {}
    for name, count in counts.items():
        dataset, _, shown = name.partition("__")
        positive = {} if shown == "none" else {shown: [1], "never": []}
        made.update({f"{name}_{i:03d}": Case(dataset, positive) for i in range(count)})
    return made


def count_of(chosen: tuple[str, ...], part: str) -> int:
    return sum(part in case_id for case_id in chosen)


def test_no_category_has_more_than_its_limit() -> None:
    chosen = balanced_cases(cases(A__liver=50, A__lung=3, A__none=20), most=5, seed=0)
    assert (count_of(chosen, "liver"), count_of(chosen, "lung"), count_of(chosen, "none")) == (
        5,
        3,
        5,
    )


def test_sources_take_turns() -> None:
    """Six from sets of 40, 2 and 10: both of the small set, and two of each other."""
    chosen = balanced_cases(cases(A__liver=40, B__liver=2, C__liver=10), most=6, seed=0)
    assert [count_of(chosen, f"{d}__") for d in "ABC"] == [2, 2, 2]
    chosen = balanced_cases(cases(A__liver=40, B__liver=2, C__liver=10), most=10, seed=0)
    assert [count_of(chosen, f"{d}__") for d in "ABC"] == [4, 2, 4]


def test_a_case_of_two_categories_counts_for_both() -> None:
    both = {f"both_{i}": Case("A", {"liver": [0], "lung": [2]}) for i in range(4)}
    chosen = balanced_cases({**both, **cases(A__liver=10)}, most=4, seed=0)
    assert chosen == tuple(sorted(both))


def test_a_generous_limit_takes_everything() -> None:
    everything = cases(A__liver=4, B__none=3)
    assert balanced_cases(everything, most=100, seed=1) == tuple(sorted(everything))


def test_the_seed_decides() -> None:
    pool = cases(A__liver=30)
    assert balanced_cases(pool, most=3, seed=0) == balanced_cases(pool, most=3, seed=0)
    assert balanced_cases(pool, most=3, seed=0) != balanced_cases(pool, most=3, seed=1)
