"""What ``infer-volume --region auto`` leaves out, what that saves, and that it loses no lesion.

Synthetic patients: a slice classifier and a segmentation network are trained on the same store for
so many seconds each, then the hidden test scans are segmented whole and by region, in turns, in
this process. A labelled voxel is lost when its slice is left out. Example:
``python benchmarks/region.py --region-seconds 300 --config configs/demo.yaml``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from results_page import RESULTS, markdown_table, publish, run_description
from speed import import_everything, run_command

from samcancer.config import load_config
from samcancer.errors import InputError
from samcancer.files import read_json
from samcancer.geometry import Geometry, canonicalise
from samcancer.taxonomy import load_taxonomy
from samcancer.volume_io import read_labels

CONFIGS = Path(__file__).parent.parent / "configs"

SETS = {
    "liver": "Dataset901_Phantom_Liver",
    "kidney": "Dataset902_Phantom_Kidney",
    "lung": "Dataset903_Phantom_Lung",
}
"""Lesion kind -> the set that annotates it."""

_TEST_SET = "Dataset905_Phantom_Test"
_TEST_LABELS = "Phantom_Test"
"""In the taxonomy."""

ARMS = ("off", "auto")
"""Of ``--region``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/region.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo.yaml", help="segmentation")
    parser.add_argument("--kinds", nargs="+", choices=SETS, default=["liver", "kidney"])
    parser.add_argument("--cases", type=int, default=12, help="synthetic patients of each set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--region-seconds", type=float, default=300.0, help="of its training")
    parser.add_argument("--model-seconds", type=float, default=60.0, help="of its training")
    parser.add_argument("--repeats", type=int, default=2, help="of each way; the faster counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="samcancer-region-") as folder:
            figures = {**run_description("region.py", argv), **measure(args, Path(folder))}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, "region", figures, to_markdown(figures))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return every figure."""
    train(args, folder)
    import_everything()
    test = folder / "raw" / _TEST_SET
    reports = {arm: _reports(args, test, folder, arm, 0) for arm in ARMS}
    seconds = {arm: [_seconds(found)] for arm, found in reports.items()}
    for repeat in range(1, args.repeats):
        for arm in ARMS:
            seconds[arm].append(_seconds(_reports(args, test, folder, arm, repeat)))
    scans = [_look_up(report, test / "labelsTs") for report in reports["auto"]]
    return {
        "kinds": args.kinds,
        "trained_patients": args.cases * len(args.kinds),
        "validation": read_json(folder / "runs" / "region" / "best.json")["metrics"],
        "scans": [scan._asdict() for scan in scans],
        "seconds": {
            arm: min(found, key=lambda one: one["total"]) for arm, found in seconds.items()
        },
    }


def train(args: argparse.Namespace, folder: Path) -> None:
    """Make the patients, their store and both runs."""
    raw, store, runs = folder / "raw", folder / "store", folder / "runs"
    size = load_config(args.config).model.image_size
    run_command("make-phantoms", "--out", raw, "--cases", args.cases, "--seed", args.seed)
    inputs = [word for kind in args.kinds for word in ("--input", raw / SETS[kind])]
    run_command("prepare-slices", *inputs, "--output", store, "--size", size)
    shared = ["--data", store, "--output", runs, "--no-pseudo", "--accelerator", args.device]
    folds = load_config(args.config).folds
    region = ["--config", CONFIGS / "region.yaml", "--time-budget", args.region_seconds]
    region += ["--set", f"model.image_size={size}", "--set", f"folds={folds}"]
    # the budget ends it long before so many epochs
    region += ["--epochs", 1000, "--workers", 1, "--name", "region"]
    run_command("train-final", *shared, *region)
    model = ["--config", args.config, "--time-budget", args.model_seconds]
    run_command("train-final", *shared, *model)


def _reports(
    args: argparse.Namespace, test: Path, folder: Path, arm: str, repeat: int
) -> list[dict[str, Any]]:
    """Segment the test scans and return their reports."""
    output = folder / f"masks_{arm}_{repeat}"
    words = ["--input", test / "imagesTs", "--output", output, "--model", folder / "runs"]
    run_command("infer-volume", *words, "--region", arm, "--device", args.device)
    return [read_json(path) for path in sorted(output.glob("*.json"))]


def _seconds(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    steps = {step for report in reports for step in report["seconds"]}
    found = {step: sum(r["seconds"].get(step, 0.0) for r in reports) for step in sorted(steps)}
    return {**found, "total": sum(found.values())}


class ScanRegion(NamedTuple):
    """What was segmented of a scan, and what of its labels lies outside."""

    case: str
    slices: int
    left_out: int
    whole_because: str | None
    labelled_voxels: int
    """Of the classes that the model knows."""
    lost_voxels: int


def _look_up(report: Mapping[str, Any], labels: Path) -> ScanRegion:
    spec = load_taxonomy().dataset(_TEST_LABELS)
    known = [value for value, names in spec.labels.items() if set(names) & set(report["classes"])]
    reference = read_labels(labels / f"{report['case']}.nii.gz")
    lesions = np.isin(reference.values, known)
    region = report["region"]
    kept = range(region["first_slice"], region["last_slice"] + 1)
    return ScanRegion(
        case=report["case"],
        slices=len(canonicalise(lesions, reference.geometry)[0]),
        left_out=region["left_out"],
        whole_because=region["whole_because"],
        labelled_voxels=int(lesions.sum()),
        lost_voxels=lost_voxels(lesions, reference.geometry, kept),
    )


def lost_voxels(lesions: NDArray[np.bool_], geometry: Geometry, kept: range) -> int:
    """Return the number of voxels of a mask as stored in slices that are not kept.

    Args:
        lesions: (Z, Y, X) as stored.
        geometry: Its grid.
        kept: Slices counted from the feet.
    """
    from_feet = canonicalise(lesions, geometry)[0]
    return int(from_feet.sum() - from_feet[kept.start : kept.stop].sum())


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the table and a sentence on what was lost."""
    scans = [ScanRegion(**scan) for scan in figures["scans"]]
    slices = sum(scan.slices for scan in scans)
    kept = slices - sum(scan.left_out for scan in scans)
    off, auto = (figures["seconds"][arm] for arm in ARMS)
    rows = [
        ["slices segmented", f"{slices}", f"{kept} ({kept / slices:.0%})"],
        ["seconds, slice classifier", "-", f"{auto['region']:.1f}"],
        ["seconds, segmentation", f"{off['predict']:.1f}", f"{auto['predict']:.1f}"],
        ["seconds, file to mask", f"{off['total']:.1f}", f"{auto['total']:.1f}"],
    ]
    head = f"`{figures['command']}` on {figures['machine']}; {len(scans)} scans."
    whole = sum(scan.whole_because is not None for scan in scans)
    lost, labelled = (sum(getattr(s, n) for s in scans) for n in ("lost_voxels", "labelled_voxels"))
    cut = sum(scan.lost_voxels > 0 for scan in scans)
    tail = (
        f"Labelled lesion voxels in slices left out: {lost} of {labelled}, in {cut} scans. "
        f"Segmented whole for want of a positive slice: {whole} scans."
    )
    return "\n\n".join([head, markdown_table(["", "whole scans", "`--region auto`"], rows), tail])


if __name__ == "__main__":
    sys.exit(main())
