"""``samcancer evaluate``: score predictions against references."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from samcancer.errors import InputError

DESCRIPTION = "Score label maps against references on the same grid, by case, class and lesion."
EXAMPLE = (
    "samcancer evaluate --reference labels/ --prediction masks/ --output scores/ --protocol nnunet"
)

_log = logging.getLogger(__name__)

_PROTOCOLS = ("flare24", "nnunet")


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
        "--tolerance", type=float, default=2.0, metavar="MM", help="of NSD (default 2)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N")


def run(args: argparse.Namespace) -> int:
    """Score all cases; 0 when all could be scored, 1 when some could not."""
    from rich.console import Console
    from rich.progress import Progress

    from samcancer.evaluation.cases import evaluate_cases, plan
    from samcancer.evaluation.labels import choose_labels, read_annotations
    from samcancer.evaluation.summary import summarise
    from samcancer.evaluation.tables import render, write_tables
    from samcancer.files import require_writable_folder

    if not args.tolerance > 0 or args.workers < 1:
        raise InputError("--tolerance must be above 0 mm and --workers at least 1")
    require_writable_folder(args.output)
    labels = choose_labels(args.labels, args.reference, protocol=args.protocol)
    tasks, extra = plan(
        args.reference,
        args.prediction,
        labels=labels,
        annotations=read_annotations(args.annotated, frozenset(labels)),
        protocol=args.protocol,
        tolerance_mm=args.tolerance,
        merge=args.merge_lesions,
    )
    with Progress(console=Console(stderr=True), disable=args.quiet) as progress:
        bar = progress.add_task("cases", total=len(tasks))
        evaluated = evaluate_cases(
            tasks, extra=extra, workers=args.workers, on_case=lambda _: progress.advance(bar)
        )
    if not evaluated.results:
        first = next(iter(evaluated.failures.values()))
        raise InputError(f"no case could be scored; the first failure: {first.rstrip('.')}")
    summary = summarise(evaluated, protocol=args.protocol, tolerance_mm=args.tolerance)
    write_tables(args.output, evaluated.results, summary)
    Console().print(render(summary))
    for case_id, reason in evaluated.failures.items():
        _log.error("%s failed: %s", case_id, reason)
    return 1 if evaluated.failures else 0
