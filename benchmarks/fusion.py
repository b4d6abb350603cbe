"""Two systems alone and fused, on hidden scans: what ``samcancer fit-fusion`` is good for.

Makes synthetic patients, trains the folds and a final model of our network and of a U-Net, with the
same time for each, fits the fusion on the folds, and scores the final models and the fusion on the
hidden patients by the commands that a user would type. ``--data``, ``--runs``, ``--images`` and
``--references`` take trained systems and labelled scans instead. Called again it goes on where it
stopped. Example: ``python benchmarks/fusion.py --output fusion-runs --fold-seconds 70``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results_page import RESULTS, markdown_table, publish, run_description, summary_tables

from samcancer.config import load_config
from samcancer.errors import InputError
from samcancer.files import read_json
from samcancer.training.fusion_file import FUSION_NAME, is_fusion

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from pipeline import Pipeline  # noqa: E402 - a script, found only from here on

SYSTEMS = {"sam": ROOT / "configs" / "demo.yaml", "unet": ROOT / "configs" / "demo_unet.yaml"}
"""Name of a system -> its configuration, where none is given."""

FUSED = "fused"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is not done yet, print the tables and write docs/fusion.json."""
    args = _arguments(argv)
    try:
        figures = run_description("fusion.py", argv) | measure(args)
        publish(args.docs, "fusion", figures, to_markdown(figures))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of every model and what the fusion consists of."""
    output: Path = args.output
    hidden = output / "raw" / "Dataset905_Phantom_Test"
    given = args.runs is not None
    systems = args.runs if given else [output / name for name in SYSTEMS]
    values = {
        **vars(args),
        **SYSTEMS,
        "store": args.data or output / "store",
        "images": args.images or hidden / "imagesTs",
        "references": args.references or hidden / "labelsTs",
        "first": systems[0],
        "second": systems[1],
        "fused": output / FUSED,
    }
    steps = Pipeline(commands_path=output / "commands.txt", values=values)
    if not given:
        _prepare_and_train(steps, output)
    if not is_fusion(output / FUSED):
        steps.run(
            "fit-fusion --data {store} --runs {first} {second} --output {fused} --device {device}",
            stage="fusion",
        )
    names = [system.resolve().name for system in systems]
    for name, model in zip([*names, FUSED], ("first", "second", "fused"), strict=True):
        _score(steps, name, f"{{{model}}}")
    fusion = read_json(output / FUSED / FUSION_NAME)
    return {
        "patients": None if given else args.cases,
        "seconds": steps.seconds,
        "summaries": {
            name: read_json(output / "scores" / name / "summary.json") for name in [*names, FUSED]
        },
        "rules": _rules(fusion),
    }


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables: what each model scores, and which rule each class got."""
    parts = list(figures["rules"][0]["alone"]) if figures["rules"] else []
    rows = [
        [
            row["class"],
            *(_dice(row["alone"][part]) for part in parts),
            _dice(row["fused"]),
            row["rule"],
        ]
        for row in figures["rules"]
    ]
    header = ["class", *(f"{part}, folds" for part in parts), "fused, folds", "rule"]
    return "\n\n".join(
        [
            f"`{figures['command']}` on {figures['machine']}.",
            summary_tables(figures["summaries"]),
            "What the rules were chosen by, Dice on the held-out patients of the folds "
            "(brackets: healthy ones without a predicted voxel):",
            markdown_table(header, rows),
        ]
    )


def _rules(fusion: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, per class, its rule and the figures of every part alone and of the rule."""
    parts = [part["name"] for part in fusion["parts"]]
    rules = []
    for name, chosen in fusion["classes"].items():
        alone = [candidate["classes"][name] for candidate in fusion["candidates"][: len(parts)]]
        rules.append(
            {
                "class": name,
                "rule": chosen["text"],
                "alone": dict(zip(parts, alone, strict=True)),
                "fused": fusion["validation"]["classes"][name],
            }
        )
    return rules


def _dice(result: Mapping[str, Any]) -> str:
    dice = "-" if result["dice"] is None else f"{result['dice']:.3f}"
    return f"{dice} ({result['healthy_correct']} of {result['healthy_cases']})"


def _prepare_and_train(steps: Pipeline, output: Path) -> None:
    """Make patients and their store; train the folds and a final model of both systems."""
    steps.run("make-phantoms --out {output}/raw --cases {cases} --seed {seed}", stage="data")
    sizes = {load_config(path).model.image_size for path in SYSTEMS.values()}
    sets = " ".join(
        f"--input {{output}}/raw/{name}"
        for name in (
            "Dataset901_Phantom_Liver",
            "Dataset902_Phantom_Kidney",
            "Dataset903_Phantom_Lung",
            "Dataset904_Phantom_Healthy",
        )
    )
    steps.run(f"prepare-slices {sets} --output {{store}} --size {max(sizes)}", stage="data")
    for name, path in SYSTEMS.items():
        config = load_config(path)
        shared = f"--data {{store}} --output {{output}}/{name} --config {{{name}}}"
        folds = {
            output / name / f"fold_{fold}": f"train-fold {shared} --fold {fold} "
            "--time-budget {fold_seconds} --accelerator {device}"
            for fold in range(config.folds)
        }
        final = f"train-final {shared} --no-pseudo --time-budget {{final_seconds}}"
        final += " --accelerator {device}"
        steps.train_side_by_side({**folds, output / name / "final": final}, stage=name)


def _score(steps: Pipeline, name: str, model: str) -> None:
    steps.run(
        f"infer-volume --input {{images}} --output {{output}}/masks/{name} --model {model} "
        "--device {device} --skip-finished",
        stage="masks",
    )
    steps.run(
        f"evaluate --reference {{references}} --prediction {{output}}/masks/{name} "
        f"--output {{output}}/scores/{name} --protocol nnunet",
        stage="scores",
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("fusion-runs"), metavar="DIR")
    parser.add_argument("--cases", type=int, default=12, help="synthetic patients of a data set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fold-seconds", type=float, default=70.0, help="training of a fold")
    parser.add_argument("--final-seconds", type=float, default=180.0, help="of a final model")
    parser.add_argument("--data", type=Path, metavar="STORE", help="of trained systems")
    parser.add_argument("--runs", type=Path, nargs=2, metavar="RUNS", help="trained systems")
    parser.add_argument("--images", type=Path, metavar="DIR", help="hidden scans")
    parser.add_argument("--references", type=Path, metavar="DIR", help="their labels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    own = [args.data, args.runs, args.images, args.references]
    if any(own) and not all(own):
        parser.error("--data, --runs, --images and --references go together")
    return args


if __name__ == "__main__":
    sys.exit(main())
