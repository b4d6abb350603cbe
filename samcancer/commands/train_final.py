"""``samcancer train-final``: train on labels merged with pseudo labels."""

from __future__ import annotations

import argparse
import dataclasses

from samcancer.commands.training_options import (
    add_training_arguments,
    read_options,
    report,
    run_training,
)

DESCRIPTION = """\
Train the final model on people's labels merged with RUNS/pseudo_labels. Without --config it takes
the configuration of the folds in RUNS. The patients of train.final_held_out_fold (0) only select
the best epoch."""

EXAMPLE = "samcancer train-final --data store --output runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_training_arguments(parser)
    parser.add_argument(
        "--name", default="final", help="run folder inside RUNS (default: %(default)s)"
    )
    parser.add_argument(
        "--no-pseudo", action="store_true", help="train on people's labels alone; needs no folds"
    )
    parser.add_argument(
        "--unknown",
        choices=("masked", "background"),
        help="what a class that a case does not annotate counts as (default: the configuration's); "
        "background is for comparison only",
    )


def run(args: argparse.Namespace) -> int:
    """Train; 130 when it was asked to stop."""
    return run_training(args, lambda: _train(args))


def _train(args: argparse.Namespace) -> int:
    from samcancer.training.run import stored_config, train_final

    options = read_options(args, inherited=stored_config(args.output))
    if args.unknown is not None:
        train = dataclasses.replace(options.config.train, unknown_labels=args.unknown)
        options = dataclasses.replace(
            options, config=dataclasses.replace(options.config, train=train)
        )
    result = train_final(options, name=args.name, use_pseudo_labels=not args.no_pseudo)
    return report(result, args.output / args.name)
