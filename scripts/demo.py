"""The whole pipeline on synthetic patients, on the CPU, ending in DIR/report.html.

Five folds on partial labels, pseudo labels, then three final trainings of the same wall-clock
budget: (a) what nobody annotated counts as background, (b) it is masked, (c) pseudo labels fill it.
Each arm is scored on hidden patients whose every lesion is known. Run again, it goes on where it
stopped. Example: ``python scripts/demo.py --output demo``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import Pipeline, print_scores

from samcancer.config import load_config
from samcancer.errors import InputError

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
FOLDS = range(5)
ARMS = {
    "a: unknown = background": ("background", "--no-pseudo --unknown background"),
    "b: unknown masked": ("masked", "--no-pseudo"),
    "c: with pseudo labels": ("final", ""),
}
"""Name on the page -> run folder and options of the final training."""
WITH_PAGES = "final"
"""Run folder of the arm whose masks get a page per patient."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run every step and print where the page is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE")
    parser.add_argument("--cases", type=int, default=12, help="patients of each data set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fold-seconds", type=float, default=70.0, help="training of a fold")
    parser.add_argument("--final-seconds", type=float, default=180.0, help="training of an arm")
    args = parser.parse_args(argv)
    started = time.monotonic()
    output: Path = args.output
    try:
        size = load_config(args.config).model.image_size
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    steps = Pipeline(
        commands_path=output / "commands.txt",
        values={
            **vars(args),
            "size": size,
            "hidden": output / "raw" / "Dataset905_Phantom_Test",
        },
    )
    prepare_and_train(steps, output)
    for folder, _ in ARMS.values():
        predict(steps, folder)
    report(steps)
    arms = {arm: output / "scores" / folder for arm, (folder, _) in ARMS.items()}
    seconds = time.monotonic() - started
    steps.write_summary(output / "run.json", arms, seconds_in_all=seconds)
    print(f"\n{steps.timings()}\n")
    print_scores(arms)
    print(f"\n{seconds:.0f} s in all. Page: {output / 'report.html'}")
    print(f"Pages of the hidden patients: {output / 'masks' / WITH_PAGES / 'index.html'}")
    return 0


def prepare_and_train(steps: Pipeline, output: Path) -> None:
    """Make patients and their store, train the folds, label what is unknown, train the arms."""
    steps.run(
        "make-phantoms --out {output}/raw --cases {cases} --seed {seed}", stage="synthetic patients"
    )
    steps.run(
        "prepare-slices --input {output}/raw/Dataset901_Phantom_Liver "
        "--input {output}/raw/Dataset902_Phantom_Kidney "
        "--input {output}/raw/Dataset903_Phantom_Lung "
        "--input {output}/raw/Dataset904_Phantom_Healthy "
        "--output {output}/store --size {size} --workers 2",
        stage="case store",
    )
    training = "--data {output}/store --output {output}/runs --config {config}"
    runs = output / "runs"
    folds = {
        runs / f"fold_{fold}": f"train-fold {training} --fold {fold} --time-budget {{fold_seconds}}"
        for fold in FOLDS
    }
    arms = {
        runs / folder: f"train-final {training} --name {folder} {options} "
        "--time-budget {final_seconds}"
        for folder, options in ARMS.values()
    }
    arm_a, arm_b, arm_c = arms.items()
    steps.train_side_by_side(dict([arm_a, *folds.items()]), stage="five folds, arm a")
    steps.run("pseudo-label --data {output}/store --runs {output}/runs", stage="pseudo labels")
    steps.train_side_by_side(dict([arm_b, arm_c]), stage="arms b and c")


def predict(steps: Pipeline, folder: str) -> None:
    """Segment the hidden patients with one arm's model and score the masks."""
    pages = " --html" if folder == WITH_PAGES else ""
    steps.run(
        f"infer-volume --input {{hidden}}/imagesTs --output {{output}}/masks/{folder} "
        f"--model {{output}}/runs/{folder} --skip-finished{pages}",
        stage="masks of hidden patients",
    )
    steps.run(
        f"evaluate --reference {{hidden}}/labelsTs --prediction {{output}}/masks/{folder} "
        f"--output {{output}}/scores/{folder} --protocol nnunet --workers 2",
        stage="evaluation",
    )


def report(steps: Pipeline) -> None:
    """Write the page."""
    arms = [
        f"--arm '{arm}' {{output}}/masks/{folder} {{output}}/scores/{folder}"
        for arm, (folder, _) in ARMS.items()
    ]
    runs = [f"--run 'fold {fold}' {{output}}/runs/fold_{fold}" for fold in FOLDS]
    runs += [f"--run '{arm}' {{output}}/runs/{folder}" for arm, (folder, _) in ARMS.items()]
    steps.run(
        "report --output {output}/report.html --images {hidden}/imagesTs "
        "--reference {hidden}/labelsTs --commands {output}/commands.txt "
        "--title 'From partial labels to lesion masks: synthetic patients' "
        "--lead 'The whole pipeline within minutes on a CPU. The figures are those of very short "
        "trainings on synthetic CT and say nothing about real scans.' "
        "--fact Patients '{cases} synthetic patients per data set, seed {seed}. Three sets "
        "annotate one lesion kind each while other kinds are present; one set is healthy.' "
        "--fact 'Arm a' 'What a set does not annotate counts as background.' "
        "--fact 'Arm b' 'What a set does not annotate is left out of the loss.' "
        "--fact 'Arm c' 'As b, with pseudo labels of the five fold models in place of the "
        "unknown.' "
        "--fact Budget '{final_seconds:g} s of training for each arm, {fold_seconds:g} s for each "
        "fold, validation included.' "
        "--fact 'Hidden patients' 'Never seen in training; every lesion is annotated.' "
        "--note 'Synthetic CT made by samcancer make-phantoms; no real patient is shown.' "
        f"{' '.join(arms)} {' '.join(runs)}",
        stage="page",
    )


if __name__ == "__main__":
    sys.exit(main())
