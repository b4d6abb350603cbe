"""The papers' ablations on synthetic patients, one command each.

slices      one slice against five ([SC])
templates   the sentences that name a class, one file of text embeddings each ([UM], [LV])
vectors     classes by their number, by learned vectors, and by text where a file is given ([UM])
partial     unknown as background, masked, and filled with pseudo labels ([SC], [UM])
presence    with and without the presence gate, which keeps healthy scans clean ([SC])
fusion      SAMCancer and a U-Net, alone and fused ([SC])
encoder     LiteMedSAM's frozen encoder with its real weights against random ones ([SC])

Example: ``python benchmarks/ablations.py presence --output ablations``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from arms import Arm, option_parser, run_experiment

from samcancer.errors import InputError

_VOLUME = "configs/demo_universal.yaml"


def slices(_: argparse.Namespace) -> tuple[Arm, ...]:
    """Five slices against one."""
    return (
        Arm(title="five slices", runs="demo"),
        Arm(title="one slice", runs="one_slice", sets=("model.neighbours=false",)),
    )


def templates(args: argparse.Namespace) -> tuple[Arm, ...]:
    """The classes' sentences."""
    files = _text_files(args, least=2)
    return tuple(_text_arm(path) for path in files)


def vectors(args: argparse.Namespace) -> tuple[Arm, ...]:
    """What tells classes apart."""
    heads = ("onehot", "learned")
    plain = [
        Arm(title=name, runs=name, config=_VOLUME, sets=(f"model.universal.head={name}",))
        for name in heads
    ]
    return (*plain, *(_text_arm(path) for path in args.text))


def partial(_: argparse.Namespace) -> tuple[Arm, ...]:
    """What a class is that a data set does not annotate."""
    return (
        Arm(
            title="unknown is background",
            runs="demo",
            final="background",
            final_options="--no-pseudo --unknown background",
        ),
        Arm(title="unknown is masked", runs="demo"),
        Arm(title="with pseudo labels", runs="demo", folds=True, final="final", final_options=""),
    )


def presence(_: argparse.Namespace) -> tuple[Arm, ...]:
    """One model, predicting with the calibrated presence thresholds and without."""
    return (
        Arm(title="with the presence gate", runs="demo"),
        Arm(title="without", runs="demo", infer_options="--presence-threshold 0"),
    )


def encoder(_: argparse.Namespace) -> tuple[Arm, ...]:
    """Pretrained and random weights of a frozen encoder."""
    lite = ("model.encoder=medsam_lite", "train.batch_size=2")
    return (
        Arm(
            title="pretrained, frozen",
            runs="pretrained",
            sets=(*lite, "model.encoder_checkpoint=medsam_lite"),
        ),
        Arm(title="random, frozen", runs="random", sets=lite),
    )


def fusion(_: argparse.Namespace) -> tuple[Arm, ...]:
    """Two systems alone and together."""
    return (
        Arm(title="SAMCancer", runs="demo", folds=True),
        Arm(title="U-Net", runs="volume", config=_VOLUME, folds=True),
        Arm(title="fused", runs="demo_volume", fused=("demo", "volume")),
    )


ABLATIONS: dict[str, Callable[[argparse.Namespace], tuple[Arm, ...]]] = {
    function.__name__: function
    for function in (slices, templates, vectors, partial, presence, fusion, encoder)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ablation; what is finished is not done again."""
    parser = option_parser(__doc__)
    parser.add_argument("name", choices=tuple(ABLATIONS))
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="of samcancer build-text-embeddings",
    )
    args = parser.parse_args(argv)
    try:
        arms = ABLATIONS[args.name](args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run_experiment(f"ablation-{args.name}", "ablations.py", arms, args, argv)


def _text_files(args: argparse.Namespace, *, least: int) -> list[Path]:
    files: list[Path] = args.text
    if len(files) < least:
        raise InputError(
            f"{args.name} compares {least} or more files of text embeddings, got {len(files)}",
            mend="make them with samcancer build-text-embeddings and name them with --text",
        )
    return files


def _text_arm(path: Path) -> Arm:
    return Arm(
        title=f"text, {path.stem}",
        runs=f"text_{path.stem}",
        config=_VOLUME,
        sets=("model.universal.head=text", f"model.text_embeddings={path}"),
    )


if __name__ == "__main__":
    sys.exit(main())
