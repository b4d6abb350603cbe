"""``samcancer fit-fusion``: combine several systems into one model, class by class."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.data_options import add_data_arguments, data_folder

if TYPE_CHECKING:
    from samcancer.training.fusion_fit import Fit
    from samcancer.training.validate import ClassResult

DESCRIPTION = """\
The fold models of all systems segment their held-out patients; for each class the rule that
validates best is taken: one system alone, a mean, both or either. Writes FUSED, a folder with the
rules and a copy of every system's final model, which infer-volume takes as --model. The systems
must have been trained on the same store with the same folds.json."""

EXAMPLE = "samcancer fit-fusion --data store --runs runs_sam runs_unet --output fused"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_data_arguments(parser)
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        required=True,
        metavar="RUNS",
        help="of each system, the folder with its fold runs and final run; of equal rules, one "
        "that takes the system named first wins",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FUSED", help="new folder of the fusion"
    )
    parser.add_argument(
        "--name", default="final", help="final run inside each RUNS (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Fit, write the fusion and print what was taken."""
    from samcancer.training.fusion_fit import fit_fusion

    fit = fit_fusion(
        data_folder(args),
        args.runs,
        args.output,
        name=args.name,
        device=args.device,
        show_progress=not args.quiet,
    )
    _print_fit(fit)
    return 0


def _print_fit(fit: Fit) -> None:
    from rich.console import Console
    from rich.table import Table

    parts = len(fit.part_names)
    table = Table(title="Dice on held-out patients; in brackets healthy ones without a voxel")
    table.add_column("class")
    for name in fit.part_names:
        table.add_column(name, justify="right")
    table.add_column("fused", justify="right")
    table.add_column("rule")
    for class_name, rule in fit.rules.items():
        alone = [_figure(result.classes[class_name]) for result in fit.results[:parts]]
        fused = _figure(fit.validation.classes[class_name])
        table.add_row(class_name, *alone, fused, rule.describe(fit.part_names))
    Console().print(table)
    taken = set(fit.chosen.values())
    if len(taken) == 1 and min(taken) < parts:
        print(f"Every class takes {fit.part_names[min(taken)]} alone, which runs faster by itself.")


def _figure(result: ClassResult) -> str:
    dice = "-" if result.dice is None else f"{result.dice:.3f}"
    healthy = f" ({result.healthy_correct} of {result.healthy_cases})"
    return dice + (healthy if result.healthy_cases else "")
