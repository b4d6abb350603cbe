"""``samcancer calibrate``: thresholds that keep healthy scans clean, at a stated price."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from samcancer.commands import EXIT_OK, EXIT_SOME_FAILED
from samcancer.commands.shared_options import share

DESCRIPTION = """\
Fits presence, probability and size thresholds of every lesion class so that at most a share of
healthy scans gets a false lesion of any class, at the least loss of lesions found. Every fold's
model judges its own held-out patients; the final model judges the scans of --healthy, which no
model may have seen. Prints and writes what it costs, by lesion size, and stores the thresholds
beside the final model, where infer-volume applies them. Exit status 1: the budget cannot be kept
and nothing was stored."""

EXAMPLE = "samcancer calibrate --runs runs --data store --healthy healthy/ --max-fp-scans 0.05"

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="STORE", help="case store")
    parser.add_argument(
        "--runs", type=Path, required=True, help="folder with the fold runs and the final run"
    )
    parser.add_argument(
        "--healthy",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR|STORE",
        help="further scans of healthy patients, not in STORE: folders of scans, or case stores",
    )
    parser.add_argument(
        "--max-fp-scans",
        type=share,
        required=True,
        metavar="SHARE",
        help="healthy scans that may have a false lesion, of all classes together, such as 0.05",
    )
    parser.add_argument(
        "--name", default="final", help="final run inside RUNS (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="report (default: RUNS/NAME/calibration)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="store the thresholds that come nearest, when none keep the budget",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Fit, write the report, print it; 1 when the budget cannot be kept and nothing was stored."""
    from rich.console import Console

    from samcancer.calibration.fit import calibrate
    from samcancer.calibration.tables import printed, write_report
    from samcancer.files import require_writable_folder

    output = args.output or args.runs / args.name / "calibration"
    if (args.runs / args.name).is_dir() or args.output is not None:
        require_writable_folder(output)
    fitted = calibrate(
        args.data,
        args.runs,
        max_fp_scans=args.max_fp_scans,
        healthy=args.healthy,
        name=args.name,
        force=args.force,
        device=args.device,
        show_progress=not args.quiet,
    )
    write_report(output, fitted)
    Console().print(printed(fitted))
    if not fitted.stored:
        _log.error("nothing was stored; --force stores the thresholds that come nearest")
        return EXIT_SOME_FAILED
    return EXIT_OK
