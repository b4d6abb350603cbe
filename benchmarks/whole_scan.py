"""A whole scan, file to mask, against nnU-Net v2, MONAI's networks and segment_anything's ViT-B.

Every system runs as a process of its own with random weights, through its own predictor, on the
same file and threads; process start, loading, reading and writing included. Where a whole pass
would take too long, the network runs on ``--patches`` of its N patches after one to warm up, the
rest of the pass is done in full, and the network's time is multiplied up
(benchmarks/compared_systems.py). Ours always runs whole. Example:
``python benchmarks/whole_scan.py --slices 100``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import workload as made
from resource_use import MIB, run_watched
from results_page import markdown_table, publish, run_description
from workload import Workload

from samcancer.errors import InputError

SLICES = 100
PATCHES = 3

GAIN_TARGET = ("nnunet", 10.0)
"""A system, and how many times our time it is to take at least."""

_COMPARED = Path(__file__).with_name("compared_systems.py")


class System(NamedTuple):
    """A system that ours is compared with."""

    title: str
    package: str
    """Left out where this is not installed."""


SYSTEMS = {
    "nnunet": System("nnU-Net v2, 3d_fullres, no mirroring", "nnunetv2"),
    "nnunet_mirrored": System("nnU-Net v2, 3d_fullres, mirroring (its default)", "nnunetv2"),
    "swin_unetr": System("MONAI SwinUNETR, 48 features", "monai"),
    "segresnet": System("MONAI SegResNet, 16 filters", "monai"),
    "sam_vit_b": System("segment_anything ViT-B, 1024 px, slice by slice", "segment_anything"),
}

SMALL_ENCODER = "vit_tiny"
"""Encoder of our second row."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/whole_scan.json."""
    parser = made.option_parser(__doc__)
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--patches", type=int, default=PATCHES, help="that are timed")
    parser.add_argument("--all-patches", action="store_true", help="run everything; hours")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of the compared systems"
    )
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="samcancer-whole-scan-") as folder:
            figures = {**run_description("whole_scan.py", argv), **measure(args, Path(folder))}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, "whole_scan", figures, to_markdown(figures))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return every system's figures, ours first."""
    workload = made.from_args(args)
    scan = made.write_scan(folder / "scan.nii.gz", args.slices, workload.pixels)
    rows = []
    for encoder in dict.fromkeys((workload.encoder, SMALL_ENCODER)):
        ours = dataclasses.replace(workload, encoder=encoder)
        rows.append({"system": "ours", "title": f"ours, {encoder}", **measure_ours(ours, scan)})
        print(rows[-1], file=sys.stderr)
    patches = None if args.all_patches else args.patches
    for name in args.systems:
        system = SYSTEMS[name]
        if not _installed(args.python, system.package):
            print(f"left out: {system.title} ({system.package} is missing)", file=sys.stderr)
            continue
        found = measure_other(name, args.python, scan, patches=patches, threads=workload.threads)
        rows.append({"system": name, "title": system.title, **found})
        print(rows[-1], file=sys.stderr)
    grid = f"{workload.pixels} x {workload.pixels} x {args.slices}"
    return {"workload": str(workload), "scan": grid, "rows": rows}


def measure_ours(workload: Workload, scan: Path) -> dict[str, Any]:
    """Run ``samcancer infer-volume`` whole."""
    folder = scan.parent / workload.encoder
    run = made.write_run(folder / "run", workload)
    command = made.infer_command(scan, folder / "masks", run, workload)
    usage = run_watched(command, env=made.environment(workload.threads))
    return {"seconds": usage.wall_s, "peak_mib": usage.peak_bytes / MIB}


def measure_other(
    name: str, python: str, scan: Path, *, patches: int | None, threads: int
) -> dict[str, Any]:
    """Run a compared system on some of its patches and return what all of them would take."""
    words = [name, "--scan", scan, "--mask", scan.with_name(f"{name}.nii.gz")]
    words += ["--threads", threads, *([] if patches is None else ["--patches", patches])]
    command = [python, str(_COMPARED), *map(str, words)]
    usage = run_watched(command, env=made.environment(threads))
    report = json.loads(usage.output.splitlines()[-1])
    return {
        "seconds": usage.wall_s - report["spent_s"] + report["all_s"],
        "network_s": report["all_s"],
        "patches": report["patches"],
        "timed": report["timed"],
        "torch": report["torch"],
        "peak_mib": usage.peak_bytes / MIB,
    }


def _installed(python: str, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the table, and the target where its system was measured."""
    ours_s = figures["rows"][0]["seconds"]
    rows = [
        [
            row["title"],
            f"{row['timed']} of {row['patches']}" if "timed" in row else "all",
            f"{row['seconds']:.0f}",
            f"{row['seconds'] / ours_s:.2f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in figures["rows"]
    ]
    x, y, z = made.SPACING_MM
    header = ["system", "patches or slices timed", "seconds", "times ours", "peak RSS (MiB)"]
    head = (
        f"`{figures['command']}` on {figures['machine']}; a scan of {figures['scan']} voxels of "
        f"{x} x {y} x {z} mm. Ours: {figures['workload']}."
    )
    return "\n\n".join([head, markdown_table(header, rows), *_target(figures["rows"], ours_s)])


def _target(rows: Sequence[Mapping[str, Any]], ours_s: float) -> list[str]:
    """Return a sentence about the target; none where it was not measured."""
    name, asked = GAIN_TARGET
    gains = [row["seconds"] / ours_s for row in rows if row["system"] == name]
    return [
        f"Target: {SYSTEMS[name].title}, takes at least {asked:.0f} times ours; found {gain:.1f}, "
        f"{'met' if gain >= asked else 'not met'}."
        for gain in gains
    ]


if __name__ == "__main__":
    sys.exit(main())
