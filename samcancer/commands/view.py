"""``samcancer view``: one HTML page per scan with a slice viewer, and an index of them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    parser.add_argument(
        "--affine", choices=("qform", "sform"), help="which one to use where a NIfTI's two disagree"
    )
    parser.add_argument(
        "--nan-fill", type=float, metavar="HU", help="value for voxels that are not a number"
    )
    parser.add_argument(
        "--nearest-rotation",
        action="store_true",
        help="accept a sheared affine by its nearest rotation",
    )


def run(args: argparse.Namespace) -> int:
    """Write the pages; 0 when all succeeded, 1 when some failed."""
    from samcancer.evaluation.labels import parse_labels
    from samcancer.report.scan.index import INDEX_NAME
    from samcancer.report.scan.pages import find_sources, write_pages
    from samcancer.taxonomy import load_taxonomy
    from samcancer.volume_io import ReadOptions

    sources, failures = find_sources(args.images, args.masks)
    with page_progress(len(sources), quiet=args.quiet) as on_case:
        failures = write_pages(
            sources,
            args.output,
            read=ReadOptions(
                affine=args.affine, nan_fill=args.nan_fill, nearest_rotation=args.nearest_rotation
            ),
            labels=parse_labels(args.labels) if args.labels else None,
            taxonomy=load_taxonomy(args.taxonomy),
            failures=failures,
            title=args.title,
            on_case=on_case,
        )
    _log.info("wrote %s", args.output / INDEX_NAME)
    if failures:
        _log.error("failed: %s", "; ".join(f"{c}: {fact}" for c, fact in failures.items()))
    return 1 if failures else 0


@contextmanager
def page_progress(total: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield what shows the case whose page is being written."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.fields[case]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pages"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task("", total=total, case="")
    begun = 0

    def on_case(case_id: str) -> None:
        nonlocal begun
        bar.update(task, case=case_id, completed=begun)
        begun += 1

    with bar:
        yield on_case
        bar.update(task, completed=total)
