"""Fill sections of docs/results.md from runs, so that no figure is typed by hand.

A section stands between ``<!-- NAME:start -->`` and ``<!-- NAME:end -->``; what is between is
replaced. Example, after ``make demo``: ``python benchmarks/results_page.py demo demo``
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from samcancer.errors import InputError
from samcancer.files import read_json, write_json_atomic, write_text_atomic

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"


def fill_section(page: Path, name: str, markdown: str) -> None:
    """Replace a section of the page.

    Raises:
        InputError: When the page has no such section.
    """
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"has no section {name!r}", path=page, mend=f"add {start} and {end}")
    filled = f"{start}\n\n{markdown.strip()}\n\n{end}"
    write_text_atomic(page, pattern.sub(lambda _: filled, text))


def publish(docs: Path, name: str, figures: Mapping[str, Any], markdown: str) -> None:
    """Print a benchmark's tables, write ``<name>.json`` and fill the section of results.md."""
    print(markdown)
    write_json_atomic(docs / f"{name}.json", figures)
    fill_section(docs / RESULTS.name, name, markdown)


def run_description(script: str, argv: Sequence[str] | None) -> dict[str, str]:
    """Return a benchmark's command line, absolute paths by their names, and the machine."""
    given = sys.argv[1:] if argv is None else argv
    words = [Path(word).name if word.startswith("/") else word for word in given]
    torch = f"PyTorch {metadata.version('torch')}"
    return {
        "command": shlex.join(["python", f"benchmarks/{script}", *words]),
        "machine": f"{processor_name()}, {os.cpu_count()} cores, {torch}",
    }


def processor_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return next(iter(names), platform.machine())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column is left-aligned, the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(mean: Mapping[str, Any] | None, *, decimals: int = 3) -> str:
    """Return ``mean [lower, upper] (n)``."""
    if not mean or not mean["n"]:
        return "-"
    low, high = mean["lower"], mean["upper"]
    return (
        f"{mean['mean']:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}] (n = {mean['n']})"
    )


def demo_markdown(folder: Path) -> str:
    """Return the tables of a demo folder: lesion DSC and NSD per class and arm, and its times."""
    run = read_json(folder / "run.json")
    summaries = {arm: read_json(Path(path) / "summary.json") for arm, path in run["arms"].items()}
    parts = [_command(run), summary_tables(summaries)]
    if not run["resumed"]:
        rows = [[stage, f"{seconds:.0f}"] for stage, seconds in run["seconds"].items()]
        parts.append(markdown_table(["stage", "seconds"], rows))
    return "\n\n".join(part.strip() for part in parts)


def summary_tables(summaries: Mapping[str, Any]) -> str:
    """Return lesion DSC and NSD per class and false lesions, one column a model.

    Args:
        summaries: Name of a model -> content of its evaluation's ``summary.json``.
    """
    names = list(dict.fromkeys(name for s in summaries.values() for name in s["classes"]))
    parts = []
    for key, title in (("dice_where_present", "DSC"), ("nsd_where_present", "NSD at 2 mm")):
        rows = [
            [name, *(interval(s["classes"].get(name, {}).get(key)) for s in summaries.values())]
            for name in names
        ]
        parts.append(f"Lesion {title}, cases that hold the class:\n")
        parts.append(markdown_table(["class", *summaries], rows))
    healthy = [s["healthy"] for s in summaries.values()]
    if any(row["scans"] for row in healthy):
        cells = [f"{row['with_predicted_lesion']} of {row['scans']}" for row in healthy]
        parts.append("Healthy hidden scans in which a lesion was predicted:\n")
        parts.append(markdown_table(["", *summaries], [["scans", *cells]]))
    return "\n\n".join(part.strip() for part in parts)


def _command(run: Mapping[str, Any]) -> str:
    if run["resumed"]:
        return f"`{run['command']}`, run in pieces on {run['cpu_cores']} CPU cores."
    return f"`{run['command']}`, {run['seconds_in_all']:.0f} s on {run['cpu_cores']} CPU cores."


def main(argv: Sequence[str] | None = None) -> int:
    """Fill one section from a demo folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=("demo", "demo-real"))
    parser.add_argument("folder", type=Path, help="output of scripts/demo.py or demo_real.py")
    parser.add_argument("--page", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    try:
        fill_section(args.page, args.section, demo_markdown(args.folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
