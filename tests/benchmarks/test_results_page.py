"""Filling docs/results.md: only the named section changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.results_page import RESULTS, fill_section, interval, markdown_table, publish
from samcancer.errors import InputError

PAGE = "# Results\n\n<!-- a:start -->\nold\n<!-- a:end -->\n\nkept <!-- b:start --><!-- b:end -->\n"


def test_a_section_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(PAGE)
    fill_section(page, "a", "new \\1 text")
    assert page.read_text() == PAGE.replace("\nold\n", "\n\nnew \\1 text\n\n")


def test_filling_twice_is_the_same_as_once(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(PAGE)
    fill_section(page, "b", "x")
    once = page.read_text()
    fill_section(page, "b", "x")
    assert page.read_text() == once


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(PAGE)
    with pytest.raises(InputError, match="has no section 'c'"):
        fill_section(page, "c", "x")


@pytest.mark.parametrize(
    "name",
    [
        *("demo", "demo-real", "sarcoma", "speed"),
        *("startup", "gzip", "engine", "roofline", "backends", "whole_scan", "efficiency"),
    ],
)
def test_the_page_has_every_section_once(name: str) -> None:
    text = RESULTS.read_text(encoding="utf-8")
    assert text.count(f"<!-- {name}:start -->") == text.count(f"<!-- {name}:end -->") == 1


def test_figures_and_their_tables_are_published_together(tmp_path: Path) -> None:
    (tmp_path / RESULTS.name).write_text(PAGE)
    publish(tmp_path, "b", {"seconds": 1.5}, "| table |")
    assert json.loads((tmp_path / "b.json").read_text()) == {"seconds": 1.5}
    assert "| table |" in (tmp_path / RESULTS.name).read_text()


def test_means_stand_with_interval_and_number() -> None:
    mean = {"mean": 0.5, "lower": 0.25, "upper": 0.75, "n": 4}
    assert interval(mean) == "0.500 [0.250, 0.750] (n = 4)"
    assert interval({"mean": None, "lower": None, "upper": None, "n": 0}) == "-"


def test_a_table_has_one_line_per_row() -> None:
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
