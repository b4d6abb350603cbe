"""The ``samcancer`` console command: one module per verb, imported only when it runs.

A verb's module defines ``DESCRIPTION``, ``EXAMPLE``, ``add_arguments(parser)`` and
``run(args) -> int``. It imports torch and other slow packages inside ``run`` only, so that
``--help`` answers at once. Exit status: 0 good, 1 some cases failed (all others done), 2 bad usage
or input.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import full_disk_error, is_full_disk

VERBS: dict[str, str] = {
    "classes": "print classes, prompts, codes and data sets",
    "fetch-checkpoints": "download or import published weights, verified",
    "build-text-embeddings": "embed the prompts of classes with a CLIP model",
    "make-phantoms": "write synthetic patients with partial labels",
    "prepare-slices": "turn raw scans and labels into a case store",
    "cache-features": "keep what a frozen encoder says of every slice",
    "train-fold": "train one fold of the cross-validation",
    "pseudo-label": "label unknown classes with the fold models",
    "train-final": "train on labels merged with pseudo labels",
    "fit-fusion": "combine several systems, class by class",
    "calibrate": "fit thresholds that keep healthy scans clean",
    "infer-volume": "segment whole scans on their own grid",
    "serve": "a page on this machine to drop scans on",
    "evaluate": "score predictions against references",
    "view": "write one HTML page per scan, with a slice viewer",
    "report": "write one HTML page from a run's results",
    "model": "print the network's size and cost",
}
"""Verb -> one line for the overview; the module is the verb with underscores."""

_PATIENT_THREADS = ("OMP_WAIT_POLICY", "PASSIVE")
"""Read by OpenMP when torch is imported: idle threads sleep. By default they spin, and on a machine
with fewer free cores than threads (loader workers, other programs) every step waits for a spinner:
3 to 10 times slower, measured on 2 cores."""

EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``samcancer VERB ...`` and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK if arguments else EXIT_BAD_INPUT
    if arguments[0] == "--version":
        print(f"samcancer {__version__}")
        return EXIT_OK
    verb = arguments[0].replace("_", "-")
    if verb not in VERBS:
        print(
            f"error: unknown command {arguments[0]!r}; choose from {', '.join(VERBS)}",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    return run_verb(verb, arguments[1:])


def run_verb(verb: str, arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments of one verb, run it and turn its errors into one line and a status."""
    os.environ.setdefault(*_PATIENT_THREADS)
    module = importlib.import_module(f"samcancer.commands.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"samcancer {verb}",
        description=module.DESCRIPTION,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--quiet", action="store_true", help="log warnings only, no progress bars")
    args = parser.parse_args(arguments)
    _start_logging(quiet=args.quiet, debug=args.debug)
    try:
        return int(module.run(args))
    except InputError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (
        OSError
    ) as error:  # what no part expected: a full disk, a permission, a folder for a file
        if args.debug or not (is_full_disk(error) or error.filename):
            raise
        print(f"error: {_unexpected(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def print_failures(messages: Iterable[str]) -> None:
    """Print one line for each case that failed while the others were done."""
    for message in messages:
        print(f"error: {message}", file=sys.stderr)


def _unexpected(error: OSError) -> InputError:
    if is_full_disk(error):
        return full_disk_error(error.filename)
    fact = (error.strerror or type(error).__name__).lower()
    return InputError(fact, path=str(error.filename), mend="check the path and who may use it")


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: samcancer COMMAND [options]",
            "",
            "Find and outline cancer in CT scans, learned from partially labelled data sets.",
            "",
            *lines,
            "",
            "`samcancer COMMAND --help` shows a command's options and an example.",
        ]
    )


def _start_logging(*, quiet: bool, debug: bool) -> None:
    """Log to a terminal in colour, and to a file or a pipe as one line a message, never wrapped."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(level)s: %(message)s"))
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])
    if debug:
        for package in ("samcancer", "data_prep"):
            logging.getLogger(package).setLevel(logging.DEBUG)


class _OneLine(logging.Formatter):
    """A record as ``warning: what was said``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        record.level = record.levelname.lower()
        return super().format(record)
