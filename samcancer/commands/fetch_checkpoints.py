"""``samcancer fetch-checkpoints``: bring published weights into the folder of checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from samcancer.errors import InputError

DESCRIPTION = """\
Downloads published weights by name, goes on where a download was cut off, and verifies size and
SHA-256; what is there already is verified. --from takes a copy that you brought along, for
machines without a network. Without a name it lists what there is. No other command ever downloads
weights."""

EXAMPLE = "samcancer fetch-checkpoints medsam_lite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the list; several are allowed")
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="take this copy of NAME"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of checkpoints (default: $SAMCANCER_CHECKPOINTS, or checkpoints/)",
    )


def run(args: argparse.Namespace) -> int:
    """List, fetch or import."""
    from samcancer.pretrained import checkpoints_folder, fetch, import_file, load_registry

    registry = load_registry()
    folder: Path = args.output or checkpoints_folder()
    unknown = [name for name in args.names if name not in registry]
    if unknown:
        raise InputError(
            f"no checkpoint is named {unknown[0]!r}", mend=f"choose from {', '.join(registry)}"
        )
    if args.source is not None and len(args.names) != 1:
        raise InputError("--from takes the copy of one checkpoint", mend="give exactly one NAME")
    if not args.names:
        _print_list(folder)
    for name in dict.fromkeys(args.names):
        if args.source is not None:
            import_file(registry[name], args.source, folder)
        else:
            fetch(registry[name], folder)
    return 0


def _print_list(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from samcancer.pretrained import load_registry

    table = Table(title=f"Published weights, kept in {folder}")
    for column in ("name", "what it is", "licence", "MB", "there"):
        table.add_column(column)
    for entry in load_registry().values():
        there = "yes" if (folder / entry.file).is_file() else ""
        table.add_row(entry.name, entry.what, entry.licence, f"{entry.bytes / 1e6:.0f}", there)
    Console().print(table)
