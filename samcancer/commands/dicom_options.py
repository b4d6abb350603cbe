"""The options of ``infer-volume`` that say what is written in DICOM of a scan that is DICOM."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samcancer.inference.dicom_results import DicomOptions

_SEPARATOR = ","


def add_dicom_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("DICOM results", "of scans that are DICOM series")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument(
        "--dicom",
        metavar="KINDS",
        help="of seg (segmentation), sr (measurement report) and rtstruct (contours), with commas "
        "between; a series that cannot be referred to fails (default: seg,sr where it can)",
    )
    kinds.add_argument("--no-dicom", action="store_true", help="write the label map alone")
    group.add_argument(
        "--keep-patient",
        action="store_true",
        help="copy name, id and dates of patient and study into the DICOM results, for a PACS; "
        "otherwise the case id stands for the patient id and the rest is empty",
    )


def dicom_options(args: argparse.Namespace) -> DicomOptions:
    """Return what the command line asks for.

    Raises:
        InputError: When a kind is unknown, or lacks another that it refers to.
    """
    from samcancer.inference.dicom_results import DicomOptions

    if args.no_dicom:
        return DicomOptions(kinds=(), keep_patient=args.keep_patient)
    if args.dicom is None:
        return DicomOptions(keep_patient=args.keep_patient)
    return DicomOptions(
        kinds=tuple(kind.strip() for kind in args.dicom.split(_SEPARATOR)),
        required=True,
        keep_patient=args.keep_patient,
    )
