"""The budget is spent where it buys the most lesions, and never overspent."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from samcancer.calibration.grid import Grid
from samcancer.calibration.outcomes import HealthyOutcome, LesionOutcome, Outcome
from samcancer.calibration.search import Choice, choose, healthy_scans

GRID = Grid(presence=(0.5,), probability=(0.5, 0.6, 0.7), min_volume_ml=(0.0,))
"""Three candidates, each stricter than the one before."""


def healthy(scan: str, class_name: str, *false: int) -> HealthyOutcome:
    """A scan that candidates 0, 1, 2 mark or not."""
    return HealthyOutcome(scan, class_name, 0, np.array(false, dtype=bool).reshape(GRID.shape))


def diseased(
    class_name: str, *detected: int, lesions: int = 10, dice: tuple[float, ...] = (0.5, 0.5, 0.5)
) -> LesionOutcome:
    """A scan of which the candidates find so many lesions."""
    found = np.zeros((3, *GRID.shape), dtype=np.int64)
    found[1] = np.array(detected).reshape(GRID.shape)
    return LesionOutcome(
        f"sick_{class_name}",
        class_name,
        0,
        np.array([0, lesions, 0]),
        found,
        np.array(dice).reshape(GRID.shape),
    )


def taken(outcomes: list[Outcome], max_fp_scans: float, *, own: int = 0) -> tuple[list[int], bool]:
    names = sorted({outcome.class_name for outcome in outcomes})
    choice = choose(
        outcomes, GRID, own=dict.fromkeys(names, (0, own, 0)), max_fp_scans=max_fp_scans
    )
    return [choice.indices[name][1] for name in names], choice.met


def four_scans(class_name: str, *false: tuple[int, int, int]) -> list[Outcome]:
    return [healthy(f"scan_{i}", class_name, *marks) for i, marks in enumerate(false)]


def test_without_a_budget_the_candidate_that_marks_no_scan_is_taken() -> None:
    outcomes = four_scans("a", (1, 1, 0), (1, 0, 0), (0, 0, 0), (0, 0, 0))
    outcomes.append(diseased("a", 9, 8, 2))
    assert taken(outcomes, 0) == ([2], True)


def test_one_scan_of_four_buys_the_lesions_that_it_costs() -> None:
    outcomes = four_scans("a", (1, 1, 0), (1, 0, 0), (0, 0, 0), (0, 0, 0))
    outcomes.append(diseased("a", 9, 8, 2))
    assert taken(outcomes, 0.25) == ([1], True)
    assert taken(outcomes, 0.5) == ([0], True)


def test_a_scan_is_given_up_for_the_class_that_gains_most_by_it() -> None:
    outcomes: list[Outcome] = [
        *four_scans("a", (1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
        *four_scans("b", (0, 0, 0), (1, 0, 0), (0, 0, 0), (0, 0, 0)),
        diseased("a", 6, 5, 5),
        diseased("b", 9, 5, 5),
    ]
    assert taken(outcomes, 0.25) == ([1, 0], True)
    assert taken(outcomes, 0.5) == ([0, 0], True)


def test_a_scan_given_up_for_one_class_is_free_for_the_others() -> None:
    outcomes: list[Outcome] = [
        *four_scans("a", (1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
        *four_scans("b", (1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
        diseased("a", 6, 5, 5),
        diseased("b", 9, 5, 5),
    ]
    assert taken(outcomes, 0.25) == ([0, 0], True)


def test_nothing_is_paid_for_dice_alone() -> None:
    outcomes = four_scans("a", (1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0))
    outcomes.append(diseased("a", 7, 7, 7, dice=(0.9, 0.3, 0.6)))
    assert taken(outcomes, 0.25) == ([2], True)


def test_of_equally_good_ones_the_nearest_to_the_models_own_is_taken() -> None:
    outcomes = four_scans("a", (1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0))
    outcomes.append(diseased("a", 7, 7, 7))
    assert taken(outcomes, 0.25) == ([1], True)
    assert taken(outcomes, 0.25, own=2) == ([2], True)


def test_a_class_that_no_scan_holds_is_only_as_strict_as_it_must_be() -> None:
    outcomes = four_scans("a", (1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0))
    assert taken(outcomes, 0) == ([1], True)


def test_a_budget_that_cannot_be_kept_is_missed_by_as_little_as_possible() -> None:
    outcomes = four_scans("a", (1, 1, 1), (1, 1, 1), (1, 1, 0), (0, 0, 0))
    outcomes.append(diseased("a", 9, 8, 2))
    assert taken(outcomes, 0.25) == ([2], False)
    assert taken(outcomes, 0.5) == ([2], True)


def test_scans_with_other_lesions_count_for_the_class_that_they_are_free_of() -> None:
    outcomes: list[Outcome] = [
        *four_scans("a", (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
        *four_scans("b", (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
        *(healthy(f"sick_{i}", "a", 1, 0, 0) for i in range(4)),
        diseased("a", 9, 8, 2),
        diseased("b", 9, 8, 2),
    ]
    assert healthy_scans(outcomes, ["a", "b"]) == ("scan_0", "scan_1", "scan_2", "scan_3")
    assert taken(outcomes, 0.25) == ([1, 0], True)


def test_a_smaller_volume_than_the_taxonomys_is_not_tried() -> None:
    grid = Grid(presence=(0.5,), probability=(0.5,), min_volume_ml=(0.0, 1.0, 2.0))
    clean = HealthyOutcome("scan", "a", 0, np.zeros(grid.shape, dtype=bool))
    found = np.zeros((3, *grid.shape), dtype=np.int64)
    found[1] = [[[3, 2, 1]]]
    sick = LesionOutcome("sick", "a", 0, np.array([0, 3, 0]), found, np.ones(grid.shape))
    choice = choose([clean, sick], grid, own={"a": (0, 0, 1)}, max_fp_scans=0)
    assert choice == Choice({"a": (0, 0, 1)}, met=True)


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_keeps_every_limit_and_with_no_budget_no_other_finds_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid((0.3, 0.5, 0.9), (0.5, 0.7, 0.9), (0.0, 1.0))
    names, size = ("a", "b"), int(np.prod(grid.shape))
    outcomes: list[Outcome] = []
    for name in names:
        for i in range(6):
            false = rng.random(grid.shape) < 0.15
            false[-1, -1, -1] = False
            outcomes.append(HealthyOutcome(f"scan_{i}", name, 0, false))
        found = np.zeros((3, *grid.shape), dtype=np.int64)
        found[0] = rng.integers(0, 9, grid.shape)
        outcomes.append(
            LesionOutcome("sick", name, 0, np.array([9, 0, 0]), found, rng.random(grid.shape))
        )
    for share, allowed in ((0, 0), (0.2, 1), (0.4, 2)):
        choice = choose(outcomes, grid, own=dict.fromkeys(names, (1, 0, 0)), max_fp_scans=share)
        false_sets = {
            name: np.array(
                [
                    o.false
                    for o in outcomes
                    if isinstance(o, HealthyOutcome) and o.class_name == name
                ]
            ).reshape(6, size)
            for name in names
        }
        flat = {n: int(np.ravel_multi_index(i, grid.shape)) for n, i in choice.indices.items()}
        marked = false_sets["a"][:, flat["a"]] | false_sets["b"][:, flat["b"]]
        assert choice.met
        assert marked.sum() <= allowed
        if share == 0:
            recall = {
                o.class_name: o.detected.sum(axis=0).ravel()
                for o in outcomes
                if isinstance(o, LesionOutcome)
            }
            best = max(
                recall["a"][i] + recall["b"][j]
                for i, j in itertools.product(range(size), repeat=2)
                if not (false_sets["a"][:, i] | false_sets["b"][:, j]).any()
            )
            assert sum(recall[n][flat[n]] for n in names) == best
