"""Parts of a cohort: the same on any machine, each case in one, and locks that keep them apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from samcancer.cohort.part_lock import cohort_lock
from samcancer.cohort.partition import Part, part_of
from samcancer.errors import InputError
from samcancer.files import folder_lock

CASES = {f"case_{number:03}": number for number in range(200)}


def test_every_case_is_in_one_part_and_parts_are_of_similar_size() -> None:
    parts = [Part(index, 4).of(CASES) for index in range(4)]
    assert sorted(name for part in parts for name in part) == list(CASES)
    # 200 cases at 1/4 each: 50 +- 6.1 (binomial); 5 standard deviations
    assert all(20 < len(part) < 80 for part in parts)


def test_a_part_depends_on_the_case_id_alone() -> None:
    shuffled = dict(sorted(CASES.items(), key=lambda entry: -entry[1]))
    few = {name: CASES[name] for name in list(CASES)[::7]}
    part = Part(2, 5)
    assert set(part.of(shuffled)) == set(part.of(CASES))
    assert set(part.of(few)) == set(part.of(CASES)) & set(few)


def test_the_part_is_the_hash_of_the_case_id_modulo_the_number_of_parts() -> None:
    for case_id in ("liver_1", "Fall Ä"):
        digest = hashlib.sha256(case_id.encode("utf-8")).hexdigest()
        assert part_of(case_id, 7) == int(digest, 16) % 7
    assert part_of("anything", 1) == 0


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (0, 0, "--num-parts must be at least 1, got 0"),
        (4, 4, "--part-id must be 0 to 3 with --num-parts 4, got 4"),
        (-1, 4, "--part-id must be 0 to 3 with --num-parts 4, got -1"),
    ],
)
def test_there_is_no_such_part(index: int, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Part(index, count)


def test_parts_of_one_partition_may_write_at_once(tmp_path: Path) -> None:
    with (
        cohort_lock(tmp_path, purpose="a stage", part=Part(0, 2)),
        cohort_lock(tmp_path, purpose="a stage", part=Part(1, 2)),
    ):
        assert {path.name for path in tmp_path.glob(".lock*")} == {
            *(".lock", ".lock-part-0-of-2", ".lock-part-1-of-2")
        }


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Part(0, 2), r"is being written by pid \d+ \(a stage, part-0-of-2\)"),
        (Part(1, 3), "is being written by part-0-of-2, this is part-1-of-3"),
        (None, r"is being written by jobs \(a stage, parts\)"),
    ],
)
def test_what_would_meet_a_part_is_refused(
    second: Part | None, message: str, tmp_path: Path
) -> None:
    with (
        cohort_lock(tmp_path, purpose="a stage", part=Part(0, 2)),
        pytest.raises(InputError, match=message),
        cohort_lock(tmp_path, purpose="a stage", part=second),
    ):
        pass


def test_a_part_is_refused_while_the_whole_is_at_work(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path, purpose="a stage"),
        pytest.raises(InputError, match="is being written by pid"),
        cohort_lock(tmp_path, purpose="a stage", part=Part(0, 2)),
    ):
        pass


def test_the_whole_removes_the_locks_of_parts_that_ended(tmp_path: Path) -> None:
    for index in range(3):
        with cohort_lock(tmp_path, purpose="a stage", part=Part(index, 3)):
            pass
    with cohort_lock(tmp_path, purpose="a stage", part=None):
        assert [path.name for path in tmp_path.glob(".lock*")] == [".lock"]
