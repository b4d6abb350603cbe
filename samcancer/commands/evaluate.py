"""``samcancer evaluate``: score predictions against references."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.cohort_options import add_cohort_arguments, cohort_executor
from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.cohort.executor import Executor
    from samcancer.evaluation.cases import Evaluated
    from samcancer.evaluation.labels import Annotations, LabelValues
    from samcancer.evaluation.scoring import CaseTask

DESCRIPTION = (
    "Score label maps against references on the same grid, by case, class, lesion and patient."
)
EXAMPLE = (
    "samcancer evaluate --reference labels/ --prediction masks/ --output scores/ --protocol nnunet"
)

_PROTOCOLS = ("flare24", "flare23", "nnunet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prediction", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="tables")
    parser.add_argument(
        "--protocol", choices=_PROTOCOLS, default="nnunet", help="rules of scoring (default nnunet)"
    )
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE,...|FILE",
        help="classes of the references; default: the dataset.json beside or above them",
    )
    parser.add_argument(
        "--annotated",
        metavar="CLASSES|CSV",
        help="classes that the references annotate, for all cases (A,B) or by case (CSV with the"
        " columns case,classes; classes separated by ;); default: all",
    )
    parser.add_argument(
        "--merge-lesions", action="store_true", help="score all lesion classes as one"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="MM",
        help="of NSD (default 2; flare23 has its own for each class)",
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="which cases are one patient's scans (columns case,patient); default: none",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help="other predictions of the same cases: paired differences, --prediction less these",
    )
    add_cohort_arguments(parser, parts=False)


def run(args: argparse.Namespace) -> int:
    """Score all cases; 0 when all could be scored, 1 when some could not."""
    from rich.console import Console

    from samcancer.commands import EXIT_OK, EXIT_SOME_FAILED, print_failures
    from samcancer.evaluation.comparison import compare
    from samcancer.evaluation.labels import choose_labels, read_annotations
    from samcancer.evaluation.patients import read_patients
    from samcancer.evaluation.summary import summarise
    from samcancer.evaluation.tables import (
        render,
        render_comparison,
        write_comparison,
        write_tables,
    )
    from samcancer.files import require_writable_folder

    executor = cohort_executor(args)
    if args.tolerance is not None and not args.tolerance > 0:
        raise InputError(f"--tolerance must be above 0 mm, got {args.tolerance}")
    require_writable_folder(args.output)
    labels = choose_labels(args.labels, args.reference, protocol=args.protocol)
    annotations = read_annotations(args.annotated, frozenset(labels))
    folders = [args.prediction] if args.compare is None else [args.prediction, args.compare]
    plans = [_plan(folder, labels, annotations, args) for folder in folders]
    case_ids = [task.case_id for task in plans[0][0]]
    patients = None if args.patients is None else read_patients(args.patients, case_ids)
    evaluated, *compared = (
        _evaluate(tasks, extra, executor, quiet=args.quiet) for tasks, extra in plans
    )
    summary = summarise(
        evaluated, protocol=args.protocol, tolerance_mm=args.tolerance, patients=patients
    )
    write_tables(args.output, evaluated.results, summary)
    Console().print(render(summary))
    for other in compared:
        comparison = compare(evaluated, other, patients=patients)
        write_comparison(args.output, other.results, comparison)
        Console().print(render_comparison(comparison))
    failures = [reason for found in (evaluated, *compared) for reason in found.failures.values()]
    print_failures(failures)
    return EXIT_SOME_FAILED if failures else EXIT_OK


def _plan(
    prediction: Path, labels: LabelValues, annotations: Annotations, args: argparse.Namespace
) -> tuple[list[CaseTask], tuple[str, ...]]:
    from samcancer.evaluation.cases import plan

    return plan(
        args.reference,
        prediction,
        labels=labels,
        annotations=annotations,
        protocol=args.protocol,
        tolerance_mm=args.tolerance,
        merge=args.merge_lesions,
    )


def _evaluate(
    tasks: Sequence[CaseTask], extra: tuple[str, ...], executor: Executor, *, quiet: bool
) -> Evaluated:
    """Score one set of predictions.

    Raises:
        InputError: When no case of it could be scored.
    """
    from samcancer.cohort.progress import cohort_progress
    from samcancer.evaluation.cases import evaluate_cases

    with cohort_progress(len(tasks), show=not quiet) as progress:
        evaluated = evaluate_cases(
            tasks,
            extra=extra,
            executor=executor,
            on_case=progress.on_case,
            on_done=progress.on_done,
        )
    if not evaluated.results:
        first = next(iter(evaluated.failures.values()))
        raise InputError(f"no case could be scored; the first failure: {first.rstrip('.')}")
    return evaluated
