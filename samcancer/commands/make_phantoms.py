"""``samcancer make-phantoms``: write synthetic patients as five partially labelled data sets."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DESCRIPTION = """Write synthetic CT patients with liver, kidney, lung and soft tissue lesions as
nnU-Net v2 raw data sets: three that annotate one lesion kind each, one of healthy patients and a
hidden test set with everything annotated. Equal seeds give equal bytes on any machine. Running the
same command again keeps finished cases."""

EXAMPLE = "samcancer make-phantoms --out demo/raw --cases 8 --seed 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the data sets")
    parser.add_argument("--cases", type=int, default=8, help="cases per data set (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default 0)")
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (default: one per processor core)"
    )
    parser.add_argument(
        "--in-plane",
        type=int,
        default=None,
        metavar="PIXELS",
        help="rows and columns of a slice (default 448, where pixels measure 0.6 to 1 mm; fewer "
        "pixels are larger)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the data sets with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from data_prep.phantoms.collection import Recipe, write_phantoms
    from data_prep.phantoms.patient import DEFAULT_IN_PLANE_PIXELS

    recipe = Recipe(
        seed=args.seed,
        pixels=DEFAULT_IN_PLANE_PIXELS if args.in_plane is None else args.in_plane,
    )
    columns = ("phantoms", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=args.quiet) as bar:
        task = bar.add_task("phantoms", total=None)
        made = write_phantoms(
            args.out,
            cases=args.cases,
            recipe=recipe,
            workers=_cores() if args.workers is None else args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if not args.quiet:
        print(f"{made} cases made, {args.cases * 5 - made} kept, in {args.out}")
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
