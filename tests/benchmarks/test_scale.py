"""The benchmark of large stores: its index, and a small run of it."""

from __future__ import annotations

import json
from pathlib import Path

import index_cost
import pytest
import scale

from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import INDEX_NAME, read_index_file


def test_the_synthetic_index_is_one_that_a_store_could_have(tmp_path: Path) -> None:
    store = CaseStore(index_cost.make_index(tmp_path, 40))
    assert [info.case_id for info in read_index_file(tmp_path / INDEX_NAME)] == list(store.cases)
    assert len(store.cases) == 40
    assert sum(len(info.annotated) == 25 for info in store.cases.values()) == 10
    assert len({info.patient_id for info in store.cases.values()}) == 36
    for info in store.cases.values():
        for runs in info.positive_slices.values():
            assert max(runs, default=0) < info.slices


def test_equal_sizes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        index_cost.make_index(tmp_path / name, 12)
    assert (tmp_path / "a/index.jsonl").read_bytes() == (tmp_path / "b/index.jsonl").read_bytes()


@pytest.fixture
def words(results_page: Path) -> list[str]:
    return ["--part", "index", "--cases", "30", "60", "--docs", str(results_page.parent)]


def test_a_small_run_is_published(words: list[str], results_page: Path) -> None:
    assert scale.main(words) == 0
    figures = json.loads((results_page.parent / "scale-index.json").read_text())
    assert [size["cases"] for size in figures["sizes"]] == [30, 60]
    for size in figures["sizes"]:
        assert all(step["seconds"] > 0 for step in size["steps"].values())
        assert size["process_mb_at_load"] >= size["process_mb_before"]
        assert size["slices"] / 4 <= size["samples_of_all"] <= size["slices"]
    assert "| open the store |" in results_page.read_text()


@pytest.mark.slow
def test_100_000_cases_open_in_two_seconds_and_500_megabytes() -> None:
    found = index_cost.measure_apart(100_000)
    assert found["cases"] == 100_000
    assert found["steps"]["load"]["cpu_seconds"] < 2
    assert found["process_mb_at_load"] < 500
