"""``samcancer prepare-slices``: turn raw scans and labels into a case store."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from samcancer.commands.cohort_options import (
    add_cohort_arguments,
    cohort_executor,
    cohort_part,
)
from samcancer.commands.shared_options import add_read_arguments, reading_of

DESCRIPTION = """\
Reads raw data sets (nnU-Net v2 or MSD folders, or a CSV table of image, label, patient, dataset;
images may be folders of a DICOM series, labels DICOM RTSTRUCT or SEG files), checks every file,
resizes slices in plane and writes one HDF5 file per case. What is finished is kept, so that the
same command goes on where it stopped. Classes that a data set does not annotate are unknown in its
cases."""

EXAMPLE = "samcancer prepare-slices --input raw/Dataset901_Phantom_Liver --output store --size 256"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        required=True,
        metavar="RAW",
        help="raw data set, or CSV table; repeat for several",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="STORE", help="case store")
    parser.add_argument("--taxonomy", type=Path, metavar="FILE", help="your classes and data sets")
    parser.add_argument("--dataset", metavar="NAME", help="data set of every input, by name")
    parser.add_argument(
        "--class-set", metavar="NAME", help="classes of the store (default: those annotated)"
    )
    parser.add_argument("--size", type=int, help="pixels per side of a slice (default: 256)")
    add_cohort_arguments(parser, default="one per core, at most 8")
    parser.add_argument("--include-test", action="store_true", help="take imagesTs as well")
    parser.add_argument(
        "--verify", action="store_true", help="prepare finished cases again and compare"
    )
    add_read_arguments(parser)
    parser.add_argument(
        "--seg-threshold",
        type=float,
        metavar="SHARE",
        help="take a fractional DICOM SEG as labels: a pixel is inside from this share on",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the cases and print what the store holds."""
    from rich.console import Console

    from data_prep.prepare import PrepareOptions, prepare
    from data_prep.summary import summary_tables
    from samcancer.commands import EXIT_OK, EXIT_SOME_FAILED, print_failures

    executor = cohort_executor(args, default=_default_workers())
    part = cohort_part(args)
    options = PrepareOptions(
        inputs=tuple(args.input),
        output=args.output,
        taxonomy=args.taxonomy,
        dataset=args.dataset,
        class_set=args.class_set,
        size=args.size,
        executor=executor,
        part=part,
        include_test=args.include_test,
        verify=args.verify,
        reading=reading_of(args, seg_threshold=args.seg_threshold),
    )
    summary = prepare(options, show_progress=not args.quiet)
    console = Console()
    for table in summary_tables(summary):
        console.print(table)
    console.print(
        f"{summary.prepared} cases prepared, {summary.kept} kept, {len(summary.refused)} refused"
    )
    if summary.prepared:
        console.print(
            f"{summary.speed.input_mb:.1f} MB of files in {summary.speed.worker_seconds:.1f} "
            f"worker seconds: {summary.speed.input_mb_per_s:.1f} MB/s per core "
            f"({summary.speed.input_mb_per_cpu_s:.1f} of computing alone)"
        )
    print_failures(refusal.message() for refusal in summary.refused)
    return EXIT_SOME_FAILED if summary.refused else EXIT_OK


_MOST_WORKERS = 8


def _default_workers() -> int:
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
