"""Options that ``train-fold`` and ``train-final`` share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.data_options import add_data_arguments, data_folder
from samcancer.config import Config, load_config, with_overrides

if TYPE_CHECKING:
    from samcancer.training.loop import TrainResult
    from samcancer.training.run import RunOptions

_log = logging.getLogger(__name__)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shared options."""
    add_data_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="RUNS", help="folder of all runs"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML, see configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the configuration, such as train.epochs=3; repeatable",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="same as --set train.epochs=N")
    parser.add_argument(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="end after so long, validation included; same as --set train.time_budget_s=SECONDS",
    )
    parser.add_argument(
        "--max-per-category",
        type=int,
        metavar="N",
        help="train on N cases of a class at most; same as --set data.max_per_category=N",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="RUN|FILE",
        help="begin with the weights of a run of the same classes or fewer",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="data loading processes")
    parser.add_argument(
        "--resume", action="store_true", help="go on exactly where the run was stopped"
    )
    parser.add_argument(
        "--stop-after-epochs",
        type=int,
        metavar="N",
        help="leave after N epochs of this call, to go on later with --resume",
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="processes on this machine, one a GPU (default: 1, or what torchrun started)",
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")


def run_training(args: argparse.Namespace, train: Callable[[], int]) -> int:
    """Train here, or in several processes of the same command; return the exit status.

    Args:
        args: Parsed, with the ``command_line`` they were parsed from.
        train: Does the work in a process of its own.
    """
    from samcancer.training.processes import command_line, launched_world, one_of, run_processes

    world = launched_world()
    if world is not None:
        with one_of(world):
            return train()
    if args.devices is not None and args.devices > 1:
        # what is wrong with the configuration is told once
        read_config(args, inherited=None)
        return run_processes(command_line(args.command_line), args.devices)
    return train()


def read_options(args: argparse.Namespace, *, inherited: Config | None) -> RunOptions:
    """Return the run that the options describe.

    Args:
        args: Parsed.
        inherited: Configuration used without ``--config``; None for the defaults.
    """
    from samcancer.training.run import RunOptions

    return RunOptions(
        store=data_folder(args),
        output=args.output,
        config=read_config(args, inherited=inherited),
        resume=args.resume,
        start_from=args.start_from,
        accelerator=args.accelerator,
        devices=args.devices,
        stop_after_epochs=args.stop_after_epochs,
        show_progress=not args.quiet,
    )


def read_config(args: argparse.Namespace, *, inherited: Config | None) -> Config:
    """Return the configuration that the options describe; see :func:`read_options`."""
    config = load_config(args.config) if args.config or inherited is None else inherited
    shorthands = {
        "train.epochs": args.epochs,
        "train.time_budget_s": args.time_budget,
        "data.workers": args.workers,
        "data.max_per_category": args.max_per_category,
    }
    given = [f"{name}={value}" for name, value in shorthands.items() if value is not None]
    return with_overrides(config, [*args.set, *given])


def report(result: TrainResult, folder: Path) -> int:
    """Say how the run ended and return the exit status."""
    from samcancer.commands import EXIT_INTERRUPTED, EXIT_OK

    if result.outcome == "stopped":
        _log.warning(
            "%s: stopped after %d epochs and %d steps; the same command with --resume goes on",
            folder,
            result.epochs,
            result.steps,
        )
        return EXIT_INTERRUPTED
    if result.best_score is None:
        _log.info("%s: finished after %d epochs", folder, result.epochs)
    else:
        _log.info(
            "%s: finished after %d epochs; best validation score %.3f in epoch %s",
            folder,
            result.epochs,
            result.best_score,
            result.best_epoch,
        )
    return EXIT_OK
