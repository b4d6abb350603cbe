"""What large numbers of cases cost, and what a second worker gains.

Part ``index``: opening a store, folds, weights and an epoch of 1,000 to 100,000 synthetic cases.
Parts ``prepare`` and ``infer``: the commands with one worker and with two, on synthetic patients.
Example: ``python benchmarks/scale.py --part prepare infer``
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cohort_speed
import index_cost
from results_page import RESULTS, publish, run_description

from samcancer.errors import InputError

PARTS = ("index", *cohort_speed.PARTS)

SIZES = (1_000, 10_000, 100_000)
"""Cases of an index."""

PATIENTS = 12
"""Of each of four synthetic sets that are prepared and segmented."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write docs/scale-index.json and docs/scale-cohorts.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--cases", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="of each of four sets")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    try:
        if min(*args.cases, args.patients) < 1:
            raise InputError("--cases and --patients must be at least 1")
        about = {
            **run_description("scale.py", argv),
            "load_average_before": os.getloadavg()[0],
        }
        if "index" in args.part:
            sizes = [index_cost.measure_apart(count) for count in args.cases]
            figures = {**about, "sizes": sizes}
            publish(args.docs, "scale-index", figures, index_cost.index_markdown(figures))
        if cohorts := [part for part in cohort_speed.PARTS if part in args.part]:
            with tempfile.TemporaryDirectory(prefix="samcancer-cohort-") as name:
                measured = {
                    part: cohort_speed.measure(part, Path(name), args.patients) for part in cohorts
                }
            figures = {**about, **measured}
            publish(args.docs, "scale-cohorts", figures, cohort_speed.cohorts_markdown(figures))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
