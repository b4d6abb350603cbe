"""``samcancer report``: one self-contained HTML page from a run's results."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from samcancer.errors import InputError

DESCRIPTION = "Write one self-contained HTML page: tables, training curves and overlays."
EXAMPLE = (
    "samcancer report --output report.html --images imagesTs/ --reference labelsTs/ "
    "--arm masked masks/ scores/ --run masked RUNS"
)

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the scans")
    parser.add_argument(
        "--reference", type=Path, required=True, metavar="DIR", help="their reference labels"
    )
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE,...|FILE",
        help="classes of the references; default: the dataset.json beside or above them",
    )
    parser.add_argument(
        "--arm",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "PREDICTION", "EVALUATION"),
        help="folders of masks and of `samcancer evaluate`'s tables; once for each arm",
    )
    parser.add_argument(
        "--run",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "DIR"),
        help="run folder, or folder of runs, whose training curves are drawn",
    )
    parser.add_argument("--title", default="SAMCancer report")
    parser.add_argument("--lead", default="", help="a sentence or two under the title")
    parser.add_argument(
        "--fact",
        nargs=2,
        action="append",
        default=[],
        metavar=("TERM", "TEXT"),
        help="a line under “What was run”",
    )
    parser.add_argument(
        "--commands", type=Path, metavar="FILE", help="commands that were run, one a line"
    )
    parser.add_argument("--note", action="append", default=[], help="a line at the page's end")
    parser.add_argument(
        "--patients", type=int, default=6, metavar="N", help="patients with pictures (default 6)"
    )
    parser.add_argument(
        "--taxonomy", type=Path, metavar="FILE", help="user's taxonomy, for class names"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    from samcancer.report.assemble import ReportInputs, write_report
    from samcancer.report.patients import ArmFolders
    from samcancer.taxonomy import load_taxonomy

    if args.patients < 1:
        raise InputError(f"--patients must be at least 1, got {args.patients}")
    arms = {n: ArmFolders(Path(masks), Path(scores)) for n, masks, scores in args.arm}
    if len(arms) < len(args.arm):
        raise InputError("--arm: two arms have the same name", mend="give each its own name")
    inputs = ReportInputs(
        title=args.title,
        lead=args.lead,
        arms=arms,
        images=args.images,
        reference=args.reference,
        labels=args.labels,
        runs={name: Path(folder) for name, folder in args.run},
        facts=tuple((term, text) for term, text in args.fact),
        commands=_lines(args.commands),
        notes=tuple(args.note),
        patients=args.patients,
    )
    write_report(args.output, inputs, taxonomy=load_taxonomy(args.taxonomy))
    _log.info("wrote %s", args.output)
    return 0


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path) from None
