"""Options and types of values that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samcancer.volume_io import ReadOptions


def add_read_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do about scans that are otherwise refused."""
    parser.add_argument(
        "--affine", choices=("qform", "sform"), help="which one to use where a NIfTI's two disagree"
    )
    parser.add_argument(
        "--nan-fill", type=float, metavar="HU", help="value for voxels that are not a number"
    )
    parser.add_argument(
        "--nearest-rotation",
        action="store_true",
        help="accept a sheared affine by its nearest rotation; a mask keeps the original",
    )


def reading_of(args: argparse.Namespace, **more: Any) -> ReadOptions:
    """Return the decisions on doubtful files that the options make.

    Args:
        args: Parsed.
        more: Fields that only some verbs know.
    """
    from samcancer.volume_io import ReadOptions

    return ReadOptions(
        affine=args.affine, nan_fill=args.nan_fill, nearest_rotation=args.nearest_rotation, **more
    )


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def probability(text: str) -> float:
    """Return a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be 0 to 1, got {value}")
    return value


def share(text: str) -> float:
    """Return a number from 0 to under 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and under 1, got {value}")
    return value
