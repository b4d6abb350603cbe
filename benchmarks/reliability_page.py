"""Fill the table of docs/reliability.md from the lines that ``make reliability`` leaves.

docs/reliability.jsonl holds a line per test; of several for one test the last counts, and only
those are kept. Example: ``python benchmarks/reliability_page.py``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results_page import fill_section, markdown_table

from samcancer.errors import InputError
from samcancer.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from reliability_figures import FIGURES  # noqa: E402 - the one home of the figures is with the tests

PAGE = ROOT / "docs" / "reliability.md"
LINES = ROOT / "docs" / "reliability.jsonl"
SECTION = "figures"

_NOT_RUN = "not run yet"


def main(argv: Sequence[str] | None = None) -> int:
    """Keep the last line of each test and fill the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=Path, default=LINES)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    try:
        lines = read_lines(args.lines)
        write_text_atomic(
            args.lines, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        )
        fill_section(args.page, SECTION, to_markdown(lines))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the last line of each test, in the order of the figures.

    Raises:
        InputError: When the file is missing or holds something else.
    """
    last: dict[str, dict[str, Any]] = {}
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            last[line["test"]] = line
        order = sorted(last.values(), key=lambda line: FIGURES[line["figure"]].number)
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="run make reliability") from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise InputError(
            "not what make reliability writes", path=path, mend="delete it and run that again"
        ) from None
    return order


def to_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row per part of a figure, and where and how it was measured."""
    rows = []
    for name, figure in sorted(FIGURES.items(), key=lambda item: item[1].number):
        parts: dict[str, list[Mapping[str, Any]]] = {}
        for line in lines:
            if line["figure"] == name:
                parts.setdefault(line["part"], []).append(line)
        head = [f"{figure.number}. {figure.wanted} (`{name}`)"]
        if not parts:
            rows.append([*head, "", _NOT_RUN, "", ""])
        for part, tests in parts.items():
            rows.append([*head, part, *_found(tests)])
            head = [""]
    header = ["figure", "part", "found", "measured", "seconds"]
    return f"{markdown_table(header, rows)}\n\n{_where(lines)}"


def _found(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the cells of one part: trials found and wanted, what was measured, time."""
    found, wanted = (sum(int(test[key]) for test in tests) for key in ("found", "wanted"))
    cell = f"{found} of {wanted}"
    if any(test["outcome"] == "skipped" for test in tests):
        cell = "skipped here"
    elif any(test["outcome"] != "passed" for test in tests):
        cell = f"**{cell}**"
    measured = "; ".join(str(test["measured"]) for test in tests if test["measured"])
    return [cell, measured, f"{sum(float(test['seconds']) for test in tests):.0f}"]


def _where(lines: Sequence[Mapping[str, Any]]) -> str:
    if not lines:
        return ""
    commits = ", ".join(sorted({str(line["commit"]) for line in lines}))
    machines = "; ".join(sorted({str(line["machine"]) for line in lines}))
    seconds = sum(float(line["seconds"]) for line in lines)
    return (
        f"`make reliability`, {seconds / 60:.0f} minutes of tests in all, at {commits} on "
        f"{machines}. `make reliability-NAME` runs one figure, such as `make reliability-kill`."
    )


if __name__ == "__main__":
    sys.exit(main())
