"""Four real lung-cancer patients, leave-one-out, on the CPU, ending in DIR/report.html.

CT as DICOM series and the tumour as RTSTRUCT come from a package that the Python Package Index
serves (26 MB, verified; licence CC BY-NC 3.0: not for commercial use). Four models are trained,
each without one patient, and each segments the patient it has not seen. Nothing of that patient
selects an epoch or a threshold. Example: ``python scripts/demo_real.py --output demo-real``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import Pipeline, print_scores

from data_prep.lung_patients import (
    ATTRIBUTION,
    convert_patients,
    fetch_wheel,
    unpack_patients,
)
from samcancer.config import load_config
from samcancer.errors import InputError
from samcancer.files import read_json

CONFIG = Path(__file__).parent.parent / "configs" / "demo_real.yaml"
FOLDS = range(4)
ARM = "leave-one-out"


def main(argv: Sequence[str] | None = None) -> int:
    """Run every step and print where the page is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-real"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="of the download (OUTPUT/cache)")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE")
    parser.add_argument("--fold-seconds", type=float, default=180.0, help="training of a fold")
    args = parser.parse_args(argv)
    started = time.monotonic()
    output: Path = args.output
    print(f"{ATTRIBUTION}\n", flush=True)
    try:
        size = load_config(args.config).model.image_size
        wheel = fetch_wheel(args.cache or output / "cache")
        raw = convert_patients(unpack_patients(wheel, output / "dicom"), output / "raw")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    steps = Pipeline(
        commands_path=output / "commands.txt",
        values={
            **vars(args),
            "size": size,
            "raw": raw,
            "attribution": ATTRIBUTION,
        },
    )
    train_and_predict(steps, output)
    report(steps)
    arms = {ARM: output / "scores"}
    seconds = time.monotonic() - started
    steps.write_summary(output / "run.json", arms, seconds_in_all=seconds)
    print(f"\n{steps.timings()}\n")
    print_scores(arms)
    print(f"\n{seconds:.0f} s in all. Page: {output / 'report.html'}")
    return 0


def train_and_predict(steps: Pipeline, output: Path) -> None:
    """Train each fold and segment the patient that it left out."""
    steps.run(
        "prepare-slices --input {raw} --output {output}/store --size {size}", stage="case store"
    )
    folds = {
        output / "runs" / f"fold_{fold}": "train-fold --data {output}/store --output {output}/runs "
        f"--config {{config}} --fold {fold} --time-budget {{fold_seconds}}"
        for fold in FOLDS
    }
    steps.train_side_by_side(folds, stage="four folds")
    for fold in FOLDS:
        for case_id in held_out_cases(output / "runs" / f"fold_{fold}"):
            steps.run(
                f"infer-volume --input {{raw}}/imagesTr/{case_id}_0000.nii.gz "
                f"--output {{output}}/masks --model {{output}}/runs/fold_{fold} --skip-finished",
                stage="masks",
            )
    steps.run(
        "evaluate --reference {raw}/labelsTr --prediction {output}/masks "
        "--output {output}/scores --protocol nnunet",
        stage="evaluation",
    )


def held_out_cases(run: Path) -> list[str]:
    """Return the patients that a run did not see; a patient has one scan here."""
    return list(read_json(run / "best.json")["held_out_patients"])


def report(steps: Pipeline) -> None:
    """Write the page."""
    runs = " ".join(f"--run 'fold {fold}' {{output}}/runs/fold_{fold}" for fold in FOLDS)
    steps.run(
        "report --output {output}/report.html --images {raw}/imagesTr --reference {raw}/labelsTr "
        f"--arm '{ARM}' {{output}}/masks {{output}}/scores {runs} --patients 4 "
        "--commands {output}/commands.txt "
        "--title 'Four lung-cancer patients, leave-one-out' "
        "--lead 'Real CT, read from DICOM, with the gross tumour volume drawn by a person. Each "
        "patient is segmented by a model trained on the three others: far too few to learn "
        "from, so read this as a check that real scans go through, not as accuracy.' "
        "--fact Data 'CT series and RTSTRUCT of four patients, 3 mm slices, cropped about the "
        "tumour' "
        "--fact Training '{fold_seconds:g} s a fold; the held-out patient selects neither epoch "
        "nor threshold' "
        "--note '{attribution}'",
        stage="page",
    )


if __name__ == "__main__":
    sys.exit(main())
