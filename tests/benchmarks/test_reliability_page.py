"""From JSON lines to the table of docs/reliability.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reliability_figures import FIGURES, Tally, append_line
from reliability_page import PAGE, SECTION, main, read_lines, to_markdown

from samcancer.errors import InputError


def write(path: Path, **changes: Any) -> None:
    tally = Tally(changes.pop("wanted", 20))
    tally.found = changes.pop("found", 20)
    tally.measured = changes.pop("measured", "")
    given = {"figure": "kill", "part": "train-fold", "test": "t", "outcome": "passed", **changes}
    append_line(path, tally=tally, seconds=60.0, **given)


def test_parts_of_a_figure_are_rows_and_tests_of_a_part_are_summed(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write(path, test="a", found=20)
    write(path, test="b", found=19, outcome="failed", measured="1 lost")
    write(path, test="c", part="infer-volume")
    rows = [line for line in to_markdown(read_lines(path)).splitlines() if line.startswith("|")]
    at = next(i for i, row in enumerate(rows) if "(`kill`)" in row)
    assert rows[at].endswith("| train-fold | **39 of 40** | 1 lost | 120 |")
    assert rows[at + 1] == "|  | infer-volume | 20 of 20 |  | 60 |"
    assert sum("not run yet" in row for row in rows) == len(FIGURES) - 1


def test_the_last_line_of_a_test_counts_and_alone_is_kept(tmp_path: Path) -> None:
    path, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    page.write_text(f"<!-- {SECTION}:start --><!-- {SECTION}:end -->")
    write(path, found=3, outcome="failed")
    write(path, found=20)
    assert main(["--lines", str(path), "--page", str(page)]) == 0
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["found"], line["outcome"]) == (20, "passed")
    assert "| 20 of 20 |" in page.read_text()


def test_a_skipped_part_is_not_shown_as_measured(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write(path, figure="disk", found=0, outcome="skipped")
    assert "skipped here" in to_markdown(read_lines(path))


@pytest.mark.parametrize("text", ["{", '{"test": "a"}', '{"test": "a", "figure": "unknown"}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=r"lines\.jsonl: not what make reliability writes"):
        read_lines(path)


def test_missing_lines_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--lines", str(tmp_path / "none.jsonl"), "--page", str(PAGE)]) == 2
    assert "none.jsonl: no such file. Run make reliability." in capsys.readouterr().err


def test_figures_are_numbered_from_1_without_gaps() -> None:
    assert [figure.number for figure in FIGURES.values()] == list(range(1, len(FIGURES) + 1))


def test_the_page_has_the_section_once() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(f"<!-- {SECTION}:start -->") == text.count(f"<!-- {SECTION}:end -->") == 1


def test_a_trial_counts_when_its_turn_ends_without_an_error() -> None:
    tally = Tally(5)
    with pytest.raises(ValueError, match="third"):  # noqa: PT012 - the loop is what is tried
        for trial in tally.trials():
            if trial == 2:
                raise ValueError("third")
    assert (tally.found, tally.wanted) == (2, 5)
    tally = Tally(3)
    assert list(tally.trials()) == [0, 1, 2]
    assert tally.found == 3
