"""``samcancer cache-features``: compute once what a frozen encoder says of every slice."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from samcancer.errors import InputError

DESCRIPTION = """\
Runs the frozen encoder of a configuration over every slice of a store, in every training window,
and keeps its features in a folder that training reads (train.feature_cache). For the interaction
ladder without augmentation. Says what the folder will take and asks before it fills it; files that
are there are checked and kept, so a second call goes on where the first one stopped."""

EXAMPLE = "samcancer cache-features --data store --config configs/ladder.yaml --output features"

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--data", type=Path, required=True, metavar="STORE", help="case store")
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the training's, YAML"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder (default: train.feature_cache)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the configuration; repeatable",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--yes", action="store_true", help="do not ask before filling the folder")


def run(args: argparse.Namespace) -> int:
    """Predict the size, ask, and fill the folder; nothing is written when the answer is no."""
    from samcancer.config import load_config, with_overrides
    from samcancer.modeling.devices import chosen_device
    from samcancer.training.cached_features import fill, plan_fill, require_cacheable
    from samcancer.training.network import build_network
    from samcancer.training.run import open_store

    config = with_overrides(load_config(args.config), args.set)
    folder = _folder(args.output, config.train.feature_cache)
    require_cacheable(config)
    store = open_store(args.data, config)
    model = build_network(config.model, store.class_names, seed=config.train.seed)
    plan = plan_fill(folder, store, model, config)
    if not plan.to_do:
        _log.info("%s: complete, every checksum compared", folder)
        return 0
    print(plan.prediction())
    if not args.yes and not _agreed():
        print("nothing written")
        return 0
    fill(plan, model, device=chosen_device(args.device), show_progress=not args.quiet)
    _log.info("%s: complete; train with --set train.feature_cache=%s", folder, folder)
    return 0


def _folder(output: Path | None, configured: str | None) -> Path:
    if output is not None:
        return output
    if configured is None:
        raise InputError("no folder is named", mend="give --output, or set train.feature_cache")
    return Path(configured)


def _agreed() -> bool:
    """Ask on the terminal.

    Raises:
        InputError: When there is none.
    """
    if not sys.stdin.isatty():
        raise InputError(
            "asks before it fills a disk, and there is no terminal to ask on", mend="add --yes"
        )
    try:
        return input("Fill it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
