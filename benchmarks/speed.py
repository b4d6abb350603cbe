"""How fast preparation, training and inference are on this machine, through the commands.

Preparation: input MB (int16 voxels) a second of one core. Training: 5-slice stacks a second and the
share of the time spent waiting for data, of the last whole epoch. Inference: seconds a slice, from
the scan's file to its mask. The input is synthetic patients unless ``--input`` names raw data.
Example: ``python benchmarks/speed.py --config configs/demo.yaml``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results_page import RESULTS, fill_section, markdown_table, processor_name

from samcancer.commands import run_verb
from samcancer.config import load_config
from samcancer.errors import InputError
from samcancer.files import read_json, write_json_atomic

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "demo.yaml"
_PHANTOM_SET = "Dataset905_Phantom_Test"
_BYTES_PER_VOXEL = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/speed.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, metavar="RAW", help="nnU-Net raw data set")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--cases", type=int, default=6, help="synthetic patients")
    parser.add_argument("--train-seconds", type=float, default=60.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="samcancer-speed-") as folder:
            figures = measure(args, Path(folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    markdown = to_markdown(figures)
    print(markdown)
    write_json_atomic(args.docs / "speed.json", figures)
    if args.docs == RESULTS.parent:
        fill_section(RESULTS, "speed", markdown)
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return every figure."""
    raw = args.input or _phantoms(folder, args.cases)
    size = load_config(args.config).model.image_size
    import_everything()
    config = os.path.relpath(args.config, ROOT)
    command = f"python benchmarks/speed.py --config {config} --device {args.device}"
    if args.input is None:
        command += f" --cases {args.cases}"
    return {
        "command": command,
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "device": args.device,
        "image_size": size,
        "preparation": _prepare(raw, folder / "store", size=size),
        "training": _train(args, folder),
        "inference": _infer(args, raw, folder),
    }


def to_markdown(figures: dict[str, Any]) -> str:
    """Return the figures as a table."""
    prepare, train, infer = (figures[k] for k in ("preparation", "training", "inference"))
    rows = [
        ["prepare-slices, MB of voxels a second and core", f"{prepare['voxel_mb_per_s']:.1f}"],
        ["prepare-slices, MB of files a second and core", f"{prepare['file_mb_per_s']:.1f}"],
        ["training, stacks a second", f"{train['stacks_per_s']:.1f}"],
        ["training, share of time waiting for data", f"{train['data_wait_share']:.1%}"],
        ["inference, seconds a slice, network only", f"{infer['predict_s_per_slice']:.4f}"],
        ["inference, seconds a slice, file to mask", f"{infer['total_s_per_slice']:.4f}"],
    ]
    head = f"`{figures['command']}` on {figures['machine']} ({figures['device']})."
    return f"{head}\n\n{markdown_table(['figure', 'value'], rows)}"


def _phantoms(folder: Path, cases: int) -> Path:
    raw = folder / "raw"
    run_command("make-phantoms", "--out", raw, "--cases", cases, "--seed", 7)
    return raw


def import_everything() -> None:
    """Import the slow packages, which is no part of any figure."""
    import samcancer.inference.batch
    import samcancer.training.run  # noqa: F401


def _prepare(raw: Path, store: Path, *, size: int) -> dict[str, float]:
    inputs = sorted(raw.glob("Dataset90[1-4]*")) or [raw]
    words = [word for path in inputs for word in ("--input", path)]
    started = time.perf_counter()
    run_command("prepare-slices", *words, "--output", store, "--size", size, "--workers", 1)
    seconds = time.perf_counter() - started
    files = [p for path in inputs for p in path.glob("*/*_0000.nii.gz")]
    lines = (store / "index.jsonl").read_text(encoding="utf-8").splitlines()
    sizes = [json.loads(line)["geometry"]["size_xyz"] for line in lines]
    voxels = sum(x * y * z for x, y, z in sizes)
    return {
        "cases": len(lines),
        "slices": sum(z for _, _, z in sizes),
        "seconds": seconds,
        "voxel_mb_per_s": voxels * _BYTES_PER_VOXEL / 1e6 / seconds,
        "file_mb_per_s": sum(p.stat().st_size for p in files) / 1e6 / seconds,
    }


def _train(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    words = ["--data", folder / "store", "--output", folder / "runs", "--config", args.config]
    words += ["--fold", 0, "--set", "train.validate_every=null"]
    words += ["--time-budget", args.train_seconds, "--accelerator", args.device]
    run_command("train-fold", *words)
    log = (folder / "runs" / "fold_0" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in log]
    epoch = epochs[-2] if len(epochs) > 2 else epochs[-1]
    return {key: epoch[key] for key in ("stacks_per_s", "data_wait_share", "stacks", "seconds")}


def _infer(args: argparse.Namespace, raw: Path, folder: Path) -> dict[str, float]:
    images = raw / _PHANTOM_SET / "imagesTs"
    words = ["--input", images if images.is_dir() else raw / "imagesTr"]
    words += ["--output", folder / "masks", "--model", folder / "runs" / "fold_0"]
    run_command("infer-volume", *words, "--device", args.device)
    reports = [read_json(path) for path in sorted((folder / "masks").glob("*.json"))]
    slices = sum(report["input"]["geometry"]["size_xyz"][2] for report in reports)
    return {
        "scans": len(reports),
        "slices": slices,
        "predict_s_per_slice": sum(r["seconds"]["predict"] for r in reports) / slices,
        "total_s_per_slice": sum(sum(r["seconds"].values()) for r in reports) / slices,
    }


def run_command(verb: str, *words: object) -> None:
    """Run a command in this process.

    Raises:
        InputError: When it fails.
    """
    if run_verb(verb, [str(word) for word in words]) != 0:
        raise InputError(f"samcancer {verb} failed")


if __name__ == "__main__":
    sys.exit(main())
