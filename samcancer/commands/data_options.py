"""Options of the commands that read a case store, here or elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_CACHE_GB = 100.0

_BYTES_OF_GB = 10**9


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--data",
        type=_location,
        required=True,
        metavar="STORE",
        help="case store: a folder, or an address (https://..., s3://...) to read it from",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder on this machine for the files of a STORE elsewhere",
    )
    parser.add_argument(
        "--cache-size",
        type=_gigabytes,
        default=DEFAULT_CACHE_GB,
        metavar="GB",
        help="what they may take; the least recently used go first (default: %(default)g)",
    )


def data_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the store; what describes one elsewhere is fetched now.

    Raises:
        InputError: When a store elsewhere cannot be read, or there is no --cache for it.
    """
    if isinstance(args.data, Path):
        return args.data
    from samcancer.data.remote_store import open_remote_store
    from samcancer.errors import InputError

    if args.cache is None:
        raise InputError(
            f"{args.data}: is read through a folder on this machine",
            mend="name one with --cache DIR",
        )
    limit_bytes = round(args.cache_size * _BYTES_OF_GB)
    return open_remote_store(args.data, args.cache, limit_bytes=limit_bytes)


def _location(text: str) -> Path | str:
    """Return an address as it is, anything else as a path."""
    return text if "://" in text else Path(text)


def _gigabytes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"must be a positive number, got {text}")
    return value
