"""The options of every command that works on a cohort: where its tasks run, and which part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.cohort.executor import Executor
    from samcancer.cohort.partition import Part


def add_cohort_arguments(
    parser: argparse.ArgumentParser, *, default: str = "1", parts: bool = True
) -> None:
    """Declare the options.

    Args:
        parser: Of the command.
        default: Said of ``--workers``.
        parts: Whether the command can do a part of the cohort.
    """
    cohort = parser.add_argument_group(
        "cohort", "where the cases are worked on, a task each; see docs/cluster.md"
    )
    cohort.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes of this machine that share out the cases (default: {default})",
    )
    where = cohort.add_mutually_exclusive_group()
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="a running Dask scheduler, such as tcp://node7:8786"
    )
    where.add_argument(
        "--slurm", type=Path, metavar="FILE", help="YAML of Slurm jobs to start as workers"
    )
    cohort.add_argument(
        "--allowed-failures",
        type=int,
        metavar="N",
        help="workers that may die under a case before it is given up (default: 3)",
    )
    if parts:
        cohort.add_argument(
            "--num-parts", type=int, metavar="N", help="for jobs of an array: divide the cases"
        )
        cohort.add_argument(
            "--part-id", type=int, metavar="I", help="do part I of them, 0 to N - 1"
        )


def cohort_executor(args: argparse.Namespace, *, default: int = 1) -> Executor:
    """Return where the tasks run.

    Args:
        args: Of the command; its paths are made absolute where other machines do the work.
        default: Processes, where nothing is said.

    Raises:
        InputError: When the options contradict each other.
    """
    from samcancer.cohort.executor import ALLOWED_FAILURES, Executor

    if args.allowed_failures is not None and args.scheduler is not None:
        raise InputError(
            "--allowed-failures is for a cluster that is started here",
            mend="start the scheduler with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES",
        )
    elsewhere = args.scheduler is not None or args.slurm is not None
    executor = Executor(
        workers=(1 if elsewhere else default) if args.workers is None else args.workers,
        scheduler=args.scheduler,
        slurm=args.slurm,
        allowed_failures=(
            ALLOWED_FAILURES if args.allowed_failures is None else args.allowed_failures
        ),
    )
    if executor.slurm is not None:
        from samcancer.cohort.slurm import read_slurm_file

        read_slurm_file(executor.slurm)
    if executor.elsewhere:
        for name, value in vars(args).items():
            setattr(args, name, _absolute(value))
    return executor


def cohort_part(args: argparse.Namespace) -> Part | None:
    """Return the part to do; None for all cases.

    Raises:
        InputError: When only one of the two options is given, or there is no such part.
    """
    from samcancer.cohort.partition import Part

    if (args.num_parts is None) != (args.part_id is None):
        raise InputError("--num-parts and --part-id go together", mend="give both or neither")
    return None if args.num_parts is None else Part(args.part_id, args.num_parts)


def _absolute(value: object) -> object:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, list):
        return [_absolute(entry) for entry in value]
    return value
