"""``samcancer serve``: a page on this machine where scans are dropped and masks fetched."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.commands.shared_options import positive

if TYPE_CHECKING:
    from samcancer.serve.app import ModelFacts
    from samcancer.serve.jobs import Segment
    from samcancer.serve.settings import ServeSettings

DESCRIPTION = """Serve a web page on this machine: drop a CT scan, watch it being segmented, look at
the result and download masks and report. One scan at a time. Scans are removed when they are done,
results after --keep, and everything when the server stops."""

EXAMPLE = "samcancer serve --model RUNS --open"

_HIGHEST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        required=True,
        metavar="RUN|FILE",
        help="run folder or weight file; several are averaged",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; any but this machine's own asks for a token "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=_port, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--token",
        nargs="?",
        const="",
        metavar="TEXT",
        help="secret that a browser must show; without TEXT one is made",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name by which browsers call the server, besides localhost and addresses; repeatable",
    )
    parser.add_argument(
        "--max-upload",
        default="2GB",
        metavar="SIZE",
        help="largest scan, packed or not (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        default="30min",
        metavar="TIME",
        help="how long results stay, such as 45s, 30min or 2h (default: %(default)s)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of the network (default all)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    settings = _settings(args)
    if args.debug:
        # Tracebacks of scans that failed unexpectedly; they may quote what is in a scan.
        logging.getLogger("samcancer.serve").setLevel(logging.DEBUG)

    from samcancer.serve.server import listen, run_server, warn_of_network

    listener = listen(settings.host, args.port)
    warn_of_network(settings)
    run_server(
        listener,
        lambda: _load(args, settings),
        settings,
        on_ready=lambda address: print(f"serving at {address}", flush=True),
        open_browser=args.open,
    )
    return 0


def _settings(args: argparse.Namespace) -> ServeSettings:
    from samcancer.inference.budget import parse_bytes
    from samcancer.serve.settings import ServeSettings, parse_duration_s, token_for

    return ServeSettings(
        max_upload_bytes=parse_bytes(args.max_upload),
        keep_s=parse_duration_s(args.keep),
        token=token_for(args.host, args.token),
        host=args.host,
        names=tuple(args.allow_host),
    )


def _load(args: argparse.Namespace, settings: ServeSettings) -> tuple[Segment, ModelFacts]:
    import torch

    from samcancer.inference.models import load_ensemble
    from samcancer.inference.options import InferenceOptions
    from samcancer.inference.volume import EngineOptions
    from samcancer.modeling.devices import chosen_device
    from samcancer.serve.app import ModelFacts
    from samcancer.serve.engine import ScanEngine

    device = chosen_device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    ensemble = load_ensemble(args.model, device=device)
    options = InferenceOptions(engine=EngineOptions(device=device))
    facts = ModelFacts(tuple(spec.title or spec.name for spec in ensemble.classes), device)
    return ScanEngine(ensemble, options, settings), facts


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"must be 0 to {_HIGHEST_PORT}, got {value}")
    return value
