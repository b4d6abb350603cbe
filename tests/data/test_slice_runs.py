from __future__ import annotations

import pickle

import numpy as np
import pytest

from samcancer.data.slice_runs import SliceRuns


@pytest.mark.parametrize(
    ("indices", "bounds"),
    [
        ([], ()),
        ([0], (0, 1)),
        ([3, 4, 5], (3, 6)),
        ([0, 2, 3, 9], (0, 1, 2, 4, 9, 10)),
    ],
)
def test_neighbouring_slices_become_one_run(indices: list[int], bounds: tuple[int, ...]) -> None:
    runs = SliceRuns.of(indices)
    assert runs.bounds == bounds
    assert list(runs) == indices
    assert runs == indices
    assert len(runs) == len(indices)


def test_runs_read_like_the_list_they_stand_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        indices = np.flatnonzero(rng.random(40) < rng.random()).tolist()
        runs = SliceRuns.of(indices)
        assert [runs[i] for i in range(-len(indices), len(indices))] == indices + indices
        assert list(runs[2:7]) == indices[2:7]
        assert [z in runs for z in range(41)] == [z in indices for z in range(41)]
        assert pickle.loads(pickle.dumps(runs)) == runs


@pytest.mark.parametrize("place", [3, -4])
def test_a_place_past_the_end_is_refused(place: int) -> None:
    with pytest.raises(IndexError, match=f"place {place} of 3 slices"):
        SliceRuns.of([1, 2, 8])[place]


@pytest.mark.parametrize("bounds", [[3], [3, 3], [5, 2], [-1, 2], [0, 4, 4, 6], [2, 4, 1, 3]])
def test_bounds_that_are_no_runs_are_refused(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match="rising pairs of start and stop"):
        SliceRuns(bounds)
