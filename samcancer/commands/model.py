"""Print the network's parameters and multiply-adds, part by part, beside the paper's."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from samcancer.config import Interaction, ModelConfig
from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.modeling import SamCancerNet

DESCRIPTION = "Print the size and cost of the network, beside those of the SAMCancer paper."
EXAMPLE = "samcancer model --encoder sam_vit_b --classes 1"

PAPER_PARAMETERS = 153.53e6
"""All parameters of the paper's network ([SC])."""

PAPER_MULTIPLY_ADDS = 106.83e9
"""Multiply-adds of the paper's network ([SC])."""

_INTERACTIONS: tuple[Interaction, ...] = ("exchange", "ladder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; the defaults are those of the configuration."""
    default = ModelConfig()
    parser.add_argument("--encoder", default=default.encoder, help="image encoder (%(default)s)")
    parser.add_argument("--classes", type=int, default=1, help="lesion classes (%(default)s)")
    parser.add_argument(
        "--image-size", type=int, default=default.image_size, help="pixels a side (%(default)s)"
    )
    parser.add_argument(
        "--cnn-width", type=int, default=default.cnn_width, help="CNN channels (%(default)s)"
    )
    parser.add_argument(
        "--interaction", choices=_INTERACTIONS, default=default.interaction, help="(%(default)s)"
    )
    parser.add_argument(
        "--padded-windows", action="store_true", help="keep SAM's windows of 14 on a small grid"
    )
    parser.add_argument(
        "--freeze-decoder", action="store_true", help="keep SAM's prompt encoder and decoder frozen"
    )


def run(args: argparse.Namespace) -> int:
    """Build the network without memory for its weights, count, and print the table."""
    if args.classes < 1:
        raise InputError(f"--classes must be at least 1, got {args.classes}")
    try:
        config = ModelConfig(
            encoder=args.encoder,
            interaction=args.interaction,
            image_size=args.image_size,
            cnn_width=args.cnn_width,
            padded_windows=args.padded_windows,
            train_decoder=not args.freeze_decoder,
        )
    except ValueError as error:
        raise InputError(str(error)) from None

    import torch

    from samcancer.modeling import build_model

    with torch.device("meta"):
        model = build_model(config, [f"class {i + 1}" for i in range(args.classes)])
    _print_table(model, config)
    return 0


def _print_table(model: SamCancerNet, config: ModelConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    from samcancer.modeling import count_multiply_adds_by_part, count_parameters

    cost = count_multiply_adds_by_part(model, config.image_size)
    table = Table(
        title=f"{config.encoder}, {config.interaction}, {config.image_size} px, CNN width "
        f"{config.cnn_width}, classes {len(model.class_names)}"
    )
    table.add_column("part")
    for heading in ("trained (M)", "frozen (M)", "all (M)", "multiply-adds a slice (G)"):
        table.add_column(heading, justify="right")
    for name, part in model.named_children():
        trained, frozen = count_parameters(part)
        if trained + frozen:
            table.add_row(name, *_cells(trained, frozen, cost[name]))
    table.add_section()
    table.add_row("all", *_cells(*count_parameters(model), sum(cost.values())))
    paper = f"{PAPER_PARAMETERS / 1e6:.2f}", f"{PAPER_MULTIPLY_ADDS / 1e9:.2f}"
    table.add_row("SAMCancer paper", "", "", *paper)
    Console().print(table)


def _cells(trained: int, frozen: int, multiply_adds: int) -> list[str]:
    millions = [f"{count / 1e6:.2f}" for count in (trained, frozen, trained + frozen)]
    return [*millions, f"{multiply_adds / 1e9:.2f}"]
