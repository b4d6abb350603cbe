"""Arms of an experiment on synthetic patients: trained for the same time, scored on the same scans.

Each arm is a few ``samcancer`` commands, printed as a user would type them; trainings run side by
side, one thread each. Every lesion of the hidden patients is annotated. Figures are per class, over
the hidden patients that hold it, with 95 % bootstrap intervals over patients; arms are compared by
paired differences from the first one, over patients and classes.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_page import RESULTS, interval, markdown_table, publish, run_description

from samcancer.config import load_config
from samcancer.errors import InputError
from samcancer.evaluation.statistics import bootstrap_mean, paired_difference
from samcancer.files import read_json, text_of_csv
from samcancer.training.fusion_file import is_fusion

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

from pipeline import Pipeline  # noqa: E402  # beside the scripts that tell users about it

ANNOTATED = ("liver_lesion", "kidney_lesion", "lung_lesion")
"""Classes that some training set annotates; soft-tissue lesions are annotated in none."""

FOLDS = range(5)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training and predicting."""

    title: str
    runs: str
    """Folder of its runs; arms may share one."""
    config: str = "configs/demo.yaml"
    sets: tuple[str, ...] = ()
    """``--set`` assignments."""
    final: str = "masked"
    """Name of the final run; ``final`` trains on pseudo labels."""
    final_options: str = "--no-pseudo"
    student: str | None = None
    """Configuration of the final run where it is another network; None is ``config``."""
    folds: bool = False
    """Whether the five folds are trained, and label what is unknown where the final run asks."""
    fused: tuple[str, ...] = ()
    """Folders of runs that are fused in place of a training."""
    region: bool = False
    """Whether a slice classifier is trained, and used."""
    infer_options: str = ""

    @property
    def masks(self) -> str:
        """Name of the folder of its masks."""
        return "_".join([self.runs, self.final, *self.infer_options.replace("-", "").split()])


def option_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options of an experiment, described by a script's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("arms"), metavar="DIR")
    parser.add_argument("--cases", type=int, default=12, help="patients of each data set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fold-seconds", type=float, default=70.0, help="training of a fold")
    parser.add_argument("--final-seconds", type=float, default=180.0, help="training of an arm")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent, help="JSON and results.md")
    return parser


def run_experiment(
    name: str,
    script: str,
    arms: Sequence[Arm],
    args: argparse.Namespace,
    argv: Sequence[str] | None,
) -> int:
    """Train, predict and score every arm, print the tables and fill the page's section."""
    output: Path = args.output
    steps = Pipeline(
        commands_path=output / f"{name}_commands.txt",
        values={**vars(args), "hidden": output / "raw" / "Dataset905_Phantom_Test"},
    )
    try:
        _prepare(steps, arms)
        _train(steps, arms, output)
        for arm in arms:
            _predict(steps, arm)
        scores = {arm.title: output / "scores" / arm.masks for arm in arms}
        figures = {**run_description(script, argv), **_figures(scores, args)}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, name, figures, to_markdown(figures))
    return 0


def _prepare(steps: Pipeline, arms: Sequence[Arm]) -> None:
    size = load_config(ROOT / arms[0].config).model.image_size
    steps.run("make-phantoms --out {output}/raw --cases {cases} --seed {seed}", stage="patients")
    sets = ("901_Phantom_Liver", "902_Phantom_Kidney", "903_Phantom_Lung", "904_Phantom_Healthy")
    inputs = " ".join(f"--input {{output}}/raw/Dataset{name}" for name in sets)
    steps.run(
        f"prepare-slices {inputs} --output {{output}}/store --size {size} --workers 2",
        stage="case store",
    )


def _train(steps: Pipeline, arms: Sequence[Arm], output: Path) -> None:
    """Train the folds of all arms, then what builds on them."""
    folds = {}
    for arm in arms:
        if arm.folds:
            for fold in FOLDS:
                folds[output / arm.runs / f"fold_{fold}"] = (
                    f"train-fold {_training(arm, arm.config)} --fold {fold} "
                    "--time-budget {fold_seconds}"
                )
    steps.train_side_by_side(folds, stage="folds")
    for arm in arms:
        if arm.folds and "--no-pseudo" not in arm.final_options:
            steps.run(
                f"pseudo-label --data {{output}}/store --runs {{output}}/{arm.runs}",
                stage="pseudo labels",
            )
    finals = {}
    for arm in arms:
        if not arm.fused:
            config = arm.student or arm.config
            finals[output / arm.runs / arm.final] = (
                f"train-final {_training(arm, config)} --name {arm.final} {arm.final_options} "
                "--time-budget {final_seconds}"
            )
        if arm.region:
            finals[output / arm.runs / "region"] = (
                f"train-final --data {{output}}/store --output {{output}}/{arm.runs} --name region "
                f"--config {ROOT}/configs/region.yaml --no-pseudo --set model.image_size=96 "
                "--set data.workers=1 --time-budget {fold_seconds}"
            )
    steps.train_side_by_side(finals, stage="final trainings")
    for arm in arms:
        if arm.fused and not is_fusion(output / arm.runs):
            runs = " ".join(f"{{output}}/{folder}" for folder in arm.fused)
            steps.run(
                f"fit-fusion --data {{output}}/store --runs {runs} --name {arm.final} "
                f"--output {{output}}/{arm.runs}",
                stage="fusion",
            )


def _training(arm: Arm, config: str) -> str:
    sets = " ".join(f"--set {assignment}" for assignment in arm.sets)
    return f"--data {{output}}/store --output {{output}}/{arm.runs} --config {ROOT}/{config} {sets}"


def _predict(steps: Pipeline, arm: Arm) -> None:
    model = f"{{output}}/{arm.runs}" + ("" if arm.fused else f"/{arm.final}")
    region = "--region auto" if arm.region else ""
    steps.run(
        f"infer-volume --input {{hidden}}/imagesTs --output {{output}}/masks/{arm.masks} "
        f"--model {model} {region} {arm.infer_options} --skip-finished",
        stage="masks of hidden patients",
    )
    steps.run(
        f"evaluate --reference {{hidden}}/labelsTs --prediction {{output}}/masks/{arm.masks} "
        f"--output {{output}}/scores/{arm.masks} --protocol nnunet --workers 2",
        stage="evaluation",
    )


def _figures(scores: Mapping[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    dice = {title: _dice_by_class(folder) for title, folder in scores.items()}
    first = next(iter(dice.values()))
    return {
        "cases": args.cases,
        "seconds": [args.fold_seconds, args.final_seconds],
        "arms": {
            title: {
                "classes": {
                    name: bootstrap_mean(found[name].values()).to_dict() for name in ANNOTATED
                },
                "all": bootstrap_mean(_flat(found).values()).to_dict(),
                "difference": paired_difference(
                    _flat(found).values(), [_flat(first)[pair] for pair in _flat(found)]
                ).difference.to_dict(),
                "healthy": read_json(scores[title] / "summary.json")["healthy"],
                "healthy_ml": bootstrap_mean(_false_ml(scores[title])).to_dict(),
            }
            for title, found in dice.items()
        },
    }


def _dice_by_class(folder: Path) -> dict[str, dict[str, float]]:
    """Return class -> case that holds it -> DSC."""
    found: dict[str, dict[str, float]] = {name: {} for name in ANNOTATED}
    for row in _rows(folder):
        if row["class"] in found and float(row["reference_ml"]) > 0:
            found[row["class"]][row["case"]] = float(row["dice"])
    return found


def _false_ml(folder: Path) -> list[float]:
    """Return the volume predicted in each scan that holds no lesion."""
    reference: dict[str, float] = {}
    predicted: dict[str, float] = {}
    for row in _rows(folder):
        case = row["case"]
        reference[case] = reference.get(case, 0.0) + float(row["reference_ml"])
        predicted[case] = predicted.get(case, 0.0) + float(row["prediction_ml"])
    return [predicted[case] for case, volume in reference.items() if volume == 0]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "per_case.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{**row, "case": text_of_csv(row["case"])} for row in rows]


def _flat(dice: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    return {(c, k): v for k, cases in dice.items() for c, v in cases.items() if not math.isnan(v)}


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the table of the arms."""
    rows = []
    for title, arm in figures["arms"].items():
        healthy = arm["healthy"]
        rows.append(
            [
                title,
                *(interval(arm["classes"][name]) for name in ANNOTATED),
                interval(arm["all"]),
                "-" if not rows else interval(arm["difference"]),
                f"{healthy['with_predicted_lesion']} of {healthy['scans']}",
                interval(arm["healthy_ml"], decimals=1),
            ]
        )
    header = [
        "arm",
        *ANNOTATED,
        "all three",
        "less the first, paired",
        "healthy with a lesion",
        "ml there",
    ]
    folds, final = figures["seconds"]
    head = (
        f"`{figures['command']}` on {figures['machine']}: {figures['cases']} patients a set, "
        f"{final:g} s of training an arm and {folds:g} s a fold, one core each. Lesion DSC of the "
        "hidden patients that hold the class."
    )
    return f"{head}\n\n{markdown_table(header, rows)}"
