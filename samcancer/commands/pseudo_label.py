"""``samcancer pseudo-label``: label unknown classes with the fold models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.cohort_options import (
    add_cohort_arguments,
    cohort_executor,
    cohort_part,
)
from samcancer.commands.data_options import add_data_arguments, data_folder
from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.training.pseudo_labels import ClassSummary

DESCRIPTION = """\
Each fold's best model labels its own held-out patients for the classes that nobody annotated in
them, as far as its Dice on what people annotated there reaches pseudo_labels.min_teacher_dice.
Written into RUNS/pseudo_labels; a second call goes on where the first one stopped."""

EXAMPLE = "samcancer pseudo-label --data store --runs runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_data_arguments(parser)
    parser.add_argument(
        "--runs", type=Path, required=True, metavar="RUNS", help="folder with the fold runs"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_cohort_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the pseudo labels and print what they add; 1 when some cases failed."""
    from samcancer.commands import EXIT_OK, EXIT_SOME_FAILED, print_failures
    from samcancer.modeling.devices import chosen_device
    from samcancer.training.pseudo_labels import write_pseudo_labels

    executor, part = cohort_executor(args), cohort_part(args)
    if executor.workers > 1 and chosen_device(args.device) == "cuda":
        raise InputError(
            f"--workers {executor.workers} is for a CPU; processes would share the one GPU",
            mend="leave it out or use --device cpu",
        )
    result = write_pseudo_labels(
        data_folder(args),
        args.runs,
        device=args.device,
        executor=executor,
        part=part,
        show_progress=not args.quiet,
    )
    if part is None:
        _print_summary(result.classes)
    print_failures(result.failures.values())
    return EXIT_SOME_FAILED if result.failures else EXIT_OK


def _print_summary(summaries: dict[str, ClassSummary]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Added by pseudo labels")
    table.add_column("class")
    for column in ("cases", "with lesion", "slices", "lesion ml", "left unknown ml", "withheld"):
        table.add_column(column, justify="right")
    for name, summary in summaries.items():
        table.add_row(
            name,
            str(summary.cases),
            str(summary.positive_cases),
            str(summary.slices),
            f"{summary.volume_ml:.1f}",
            f"{summary.ignored_ml:.1f}",
            str(summary.withheld_cases),
        )
    Console().print(table)
    withheld = [name for name, summary in summaries.items() if summary.withheld_cases]
    if withheld:
        print(
            f"Withheld: cases whose teacher finds too little of the class ({', '.join(withheld)}); "
            "it stays unknown there."
        )
