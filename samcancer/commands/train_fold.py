"""``samcancer train-fold``: train one fold of the cross-validation."""

from __future__ import annotations

import argparse

from samcancer.commands.training_options import (
    add_training_arguments,
    read_options,
    report,
    run_training,
)

DESCRIPTION = """\
Train one fold: without the patients of fold K, validated on them. The first fold writes the
configuration and the folds into RUNS; the others reuse them."""

EXAMPLE = "samcancer train-fold --data store --output runs --fold 0 --config configs/demo.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_training_arguments(parser)
    parser.add_argument(
        "--fold", type=int, required=True, metavar="K", help="the fold that is held out, from 0"
    )


def run(args: argparse.Namespace) -> int:
    """Train the fold; 130 when it was asked to stop."""
    return run_training(args, lambda: _train(args))


def _train(args: argparse.Namespace) -> int:
    from samcancer.training.run import fold_name, stored_config, train_fold

    options = read_options(args, inherited=stored_config(args.output))
    result = train_fold(options, fold=args.fold)
    return report(result, args.output / fold_name(args.fold))
