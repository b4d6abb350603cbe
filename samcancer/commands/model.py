"""Print the network's parameters and multiply-adds, part by part, beside the paper's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.config import Interaction, ModelConfig, load_config
from samcancer.errors import InputError

if TYPE_CHECKING:
    from torch import nn

DESCRIPTION = "Print the size and cost of a network, SAMCancer's beside those of its paper."
EXAMPLE = "samcancer model --encoder sam_vit_b --classes 1"

PAPER_PARAMETERS = 153.53e6
"""All parameters of the paper's network ([SC])."""

PAPER_MULTIPLY_ADDS = 106.83e9
"""Multiply-adds of the paper's network ([SC])."""

_TEXT_DIM = 512
"""Length of CLIP's text embeddings, where classes are told apart by text."""

_INTERACTIONS: tuple[Interaction, ...] = ("exchange", "ladder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; the defaults are those of the configuration."""
    default = ModelConfig()
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="count the network of a configuration, of any system, in place of the options below",
    )
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
    config = load_config(args.config).model if args.config is not None else _config_of(args)

    import torch

    from samcancer.modeling.build import build_system, needs_text
    from samcancer.training.network import blank_text

    # MONAI's Swin UNETR cannot be built on the meta device; SAM's encoders are large enough to be
    with torch.device("meta" if config.system == "samcancer" else "cpu"):
        text = blank_text(args.classes, _TEXT_DIM) if needs_text(config) else None
        model = build_system(config, [f"class {i + 1}" for i in range(args.classes)], text=text)
    _print_table(model.to("meta"), config, classes=args.classes)
    return 0


def _config_of(args: argparse.Namespace) -> ModelConfig:
    try:
        return ModelConfig(
            encoder=args.encoder,
            interaction=args.interaction,
            image_size=args.image_size,
            cnn_width=args.cnn_width,
            padded_windows=args.padded_windows,
            train_decoder=not args.freeze_decoder,
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def _print_table(model: nn.Module, config: ModelConfig, *, classes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from samcancer.modeling import count_multiply_adds_by_part, count_parameters

    cost = count_multiply_adds_by_part(model, config.image_size)
    unit = "patch" if config.system == "universal" else "slice"
    table = Table(title=f"{_title(config)}, classes {classes}")
    table.add_column("part")
    for heading in ("trained (M)", "frozen (M)", "all (M)", f"multiply-adds a {unit} (G)"):
        table.add_column(heading, justify="right")
    for name, part in model.named_children():
        trained, frozen = count_parameters(part)
        if trained + frozen:
            table.add_row(name, *_cells(trained, frozen, cost[name]))
    table.add_section()
    table.add_row("all", *_cells(*count_parameters(model), sum(cost.values())))
    if config.system == "samcancer":
        paper = f"{PAPER_PARAMETERS / 1e6:.2f}", f"{PAPER_MULTIPLY_ADDS / 1e9:.2f}"
        table.add_row("SAMCancer paper", "", "", *paper)
    Console().print(table)


def _title(config: ModelConfig) -> str:
    if config.system == "region":
        return f"slice classifier, {config.region.backbone}, {config.image_size} px"
    if config.system == "universal":
        volume = config.universal
        patch = " x ".join(map(str, volume.patch_size))
        return f"{volume.backbone} of width {volume.width}, head {volume.head}, patches of {patch}"
    return (
        f"{config.encoder}, {config.interaction}, {config.image_size} px, CNN width "
        f"{config.cnn_width}"
    )


def _cells(trained: int, frozen: int, multiply_adds: int) -> list[str]:
    millions = [f"{count / 1e6:.2f}" for count in (trained, frozen, trained + frozen)]
    return [*millions, f"{multiply_adds / 1e9:.2f}"]
