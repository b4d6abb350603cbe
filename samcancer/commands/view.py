"""``samcancer view``: one HTML page per scan with a slice viewer, and an index of them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.shared_options import add_read_arguments, reading_of
from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.inference.batch import BatchResult
    from samcancer.volume_io import ReadOptions

DESCRIPTION = "Write one self-contained HTML page per scan, with a slice viewer, and an index."
EXAMPLE = "samcancer view --images scans/ --masks masks/ --output pages/"

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="the scans: volumes, or DICOM folders named as the cases",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        required=True,
        metavar="DIR",
        help="label maps; reports of infer-volume beside them are used",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the pages")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE,...|FILE",
        help="classes of masks without a report, in words or in a dataset.json",
    )
    parser.add_argument("--title", default="Scans", help="heading of the index (default Scans)")
    parser.add_argument(
        "--taxonomy", type=Path, metavar="FILE", help="user's taxonomy, for class names"
    )
    add_read_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the pages; 0 when all succeeded, 1 when some failed."""
    from samcancer.commands.progress import page_progress
    from samcancer.evaluation.labels import parse_labels
    from samcancer.report.scan.index import INDEX_NAME
    from samcancer.report.scan.pages import find_sources, write_pages
    from samcancer.taxonomy import load_taxonomy

    sources, unfit = find_sources(args.images, args.masks)
    with page_progress(len(sources), quiet=args.quiet) as on_case:
        failures = write_pages(
            sources,
            args.output,
            read=reading_of(args),
            labels=parse_labels(args.labels) if args.labels else None,
            taxonomy=load_taxonomy(args.taxonomy),
            failures=unfit,
            title=args.title,
            on_case=on_case,
        )
    _log.info("wrote %s", args.output / INDEX_NAME)
    for case_id, fact in unfit.items():  # the others were told when they failed
        refused = InputError(fact, path=args.masks / case_id, mend="check --images")
        _log.error("%s", refused)
    return 1 if failures else 0


def write_result_pages(
    result: BatchResult,
    scans: Mapping[str, Path],
    output: Path,
    *,
    read: ReadOptions,
    quiet: bool,
) -> None:
    """Write the pages of what infer-volume has segmented, and the index.

    Args:
        result: Of the cases; one whose page fails is added to its failures.
        scans: Case id -> scan.
        output: Folder of the masks and reports, which takes the pages.
        read: As the scans were read.
        quiet: Show no progress.
    """
    from samcancer.commands.progress import page_progress
    from samcancer.report.scan.pages import sources_of_reports, write_pages

    done = {case_id: scans[case_id] for case_id in (*result.finished, *result.skipped)}
    sources = sources_of_reports(output, done)
    with page_progress(len(sources), quiet=quiet) as on_case:
        failures = write_pages(sources, output, read=read, failures=result.facts, on_case=on_case)
    for case_id, fact in failures.items():
        result.failures.setdefault(case_id, f"{case_id}: its page: {fact}")
