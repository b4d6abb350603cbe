"""What calibration on healthy scans buys and costs, for runs that are trained already.

Makes synthetic patients of another seed than the runs'. Its healthy set goes to
``samcancer calibrate --healthy``; its hidden test set, which neither training nor calibration has
seen, is segmented with the calibration and without. Works on a copy of the runs, below ``--work``;
what is there is kept.
Example: ``python benchmarks/healthy_scans.py --data store --runs runs --work healthy``
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results_page import RESULTS, interval, markdown_table, publish, run_description
from speed import run_command

from samcancer.calibration.tables import REPORT_NAME
from samcancer.errors import InputError
from samcancer.files import read_json

_HEALTHY_SET = "Dataset904_Phantom_Healthy"
_TEST_SET = "Dataset905_Phantom_Test"

ARMS = ("no-calibration", "calibration")
"""Options of ``infer-volume``: the hidden patients without and with."""

STATES = ("before", "after", "cross_validated")
"""Of the calibration's report."""

_BANDS = ("< 1 ml", "1-10 ml", ">= 10 ml", "all")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write docs/healthy_scans.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="store of the runs")
    parser.add_argument("--runs", type=Path, required=True, help="folds and a final run")
    parser.add_argument("--name", default="final", help="of the final run")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--cases", type=int, default=40, help="synthetic patients of each set")
    parser.add_argument("--seed", type=int, default=77, help="another one than the runs'")
    parser.add_argument("--max-fp-scans", type=float, default=0.05)
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    try:
        figures = {**run_description("healthy_scans.py", argv), **measure(args)}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, "healthy_scans", figures, to_markdown(figures))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return every figure."""
    raw, runs = args.work / "raw", args.work / "runs"
    run_command("make-phantoms", "--out", raw, "--cases", args.cases, "--seed", args.seed)
    if not runs.exists():
        left_out = shutil.ignore_patterns("last.*", "resume.pt", "tensorboard", ".lock")
        shutil.copytree(args.runs, runs, ignore=left_out)
    words = ["--data", args.data, "--runs", runs, "--name", args.name, "--output", args.work]
    words += ["--healthy", raw / _HEALTHY_SET / "imagesTr", "--max-fp-scans", args.max_fp_scans]
    run_command("calibrate", *words)
    scores = {arm: _hidden_patients(args, raw / _TEST_SET, arm) for arm in ARMS}
    return {"calibration": read_json(args.work / REPORT_NAME), "hidden": scores}


def _hidden_patients(args: argparse.Namespace, test: Path, arm: str) -> dict[str, Any]:
    """Segment the test set and return the summary of its evaluation."""
    masks, scores = (args.work / f"{what}_{arm}" for what in ("masks", "scores"))
    words = ["--input", test / "imagesTs", "--output", masks, f"--{arm}", "--skip-finished"]
    run_command("infer-volume", *words, "--model", args.work / "runs" / args.name)
    words = ["--reference", test / "labelsTs", "--prediction", masks, "--output", scores]
    run_command("evaluate", *words)
    return dict(read_json(scores / "summary.json"))


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables: thresholds, the scans of the calibration, hidden patients."""
    report = figures["calibration"]
    healthy = report["before"]["healthy"]["n"]
    head = (
        f"`{figures['command']}` on {figures['machine']}: {healthy} healthy scans, "
        f"{report['healthy_scans_from_outside']} of them from outside of the store; at most a "
        f"share of {report['max_fp_scans']:g} may be marked."
    )
    parts = [
        head,
        _thresholds(report),
        "Healthy scans with a false lesion, exact 95 % interval:",
        _healthy(report),
        "Lesions found on held-out patients, and volume Dice of those who hold the class:",
        _lesions(report),
        "Hidden patients, on the scans' own grid:",
        _hidden(figures["hidden"]),
    ]
    return "\n\n".join(parts)


def _thresholds(report: Mapping[str, Any]) -> str:
    before, after = report["thresholds_before"], report["thresholds_after"]
    names = ("presence", "probability", "min_volume_ml")
    rows = [
        [name, *(f"{before[name][key]:g} -> {after[name][key]:g}" for key in names)]
        for name in before
    ]
    return markdown_table(["class", "presence", "probability", "smallest lesion (ml)"], rows)


def _healthy(report: Mapping[str, Any]) -> str:
    rows = [
        [name, *(_rate(report[state]["classes"][name]["healthy"]) for state in STATES)]
        for name in report["thresholds_before"]
    ]
    rows.append(["**any lesion**", *(_rate(report[state]["healthy"]) for state in STATES)])
    return markdown_table(["class", "before", "after", "cross-validated"], rows)


def _lesions(report: Mapping[str, Any]) -> str:
    rows = []
    for name in report["thresholds_before"]:
        for state in STATES:
            of_class = report[state]["classes"][name]
            found = [_found(of_class["found"][band]) for band in _BANDS]
            rows.append([name, state.replace("_", "-"), *found, interval(of_class["dice"])])
    return markdown_table(["class", "thresholds", *_BANDS, "Dice"], rows)


def _hidden(hidden: Mapping[str, Any]) -> str:
    rows = [
        [
            "healthy scans with a false lesion",
            *(f"{h['with_predicted_lesion']} of {h['scans']}" for h in _of(hidden, "healthy")),
        ],
        [
            "ml of it a scan",
            *(interval(h["false_positive_ml"], decimals=1) for h in _of(hidden, "healthy")),
        ],
    ]
    for name in hidden[ARMS[0]]["classes"]:
        tables = [summary["lesions"][name] for summary in (hidden[arm] for arm in ARMS)]
        rows.append([f"{name}, lesions found", *(_found_of(t["all"]) for t in tables)])
        rows.append([f"{name}, of those from 10 ml", *(_found_of(t[">= 10 ml"]) for t in tables)])
        rows.append([f"{name}, false lesions", *(_false_of(t["all"]) for t in tables)])
        dice = [c[name]["dice_where_present"] for c in _of(hidden, "classes")]
        rows.append([f"{name}, DSC where present", *map(interval, dice)])
    return markdown_table(["hidden patients", "as trained", "calibrated"], rows)


def _of(hidden: Mapping[str, Any], key: str) -> list[Any]:
    return [hidden[arm][key] for arm in ARMS]


def _rate(rate: Mapping[str, Any]) -> str:
    if not rate["n"]:
        return "-"
    return f"{rate['count']} of {rate['n']} [{rate['lower']:.3f}, {rate['upper']:.3f}]"


def _found(band: Mapping[str, Any]) -> str:
    return f"{band['detected']} of {band['lesions']}" if band["lesions"] else "-"


def _found_of(table: Mapping[str, Any]) -> str:
    return f"{table['detected']} of {table['reference_lesions']}"


def _false_of(table: Mapping[str, Any]) -> str:
    return f"{table['predicted_lesions'] - table['true']}"


if __name__ == "__main__":
    sys.exit(main())
