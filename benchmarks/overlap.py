"""What overlap and stitching device of a volume network's patches cost in time and memory.

The form of table 2 of the language-guided paper: overlap 0.1 to 0.5 on each stitching device, on
one scan, ``samcancer infer-volume`` as a process of its own. The network has random weights: what
it says changes neither time nor memory. On a CPU there is one device; on a GPU both are measured.
Example: ``python benchmarks/overlap.py --slices 100``
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import workload as made
from resource_use import MIB, describe, run_watched
from results_page import RESULTS, markdown_table, publish, run_description

from samcancer.config import Config, ModelConfig, UniversalConfig
from samcancer.errors import InputError
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.network import build_network

OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5)

CLASSES = ("liver_tumor", "lung_tumor", "kidney_tumor")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/overlap.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="unet")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96), metavar="VOXELS")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--overlaps", type=float, nargs="+", default=OVERLAPS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--docs", type=Path, default=RESULTS.parent, help="JSON and results.md")
    args = parser.parse_args(argv)
    config = UniversalConfig(
        backbone=args.backbone, width=args.width, head="learned", patch_size=tuple(args.patch)
    )
    try:
        rows = measure(config, args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    figures = {
        **run_description("overlap.py", argv),
        "network": f"{args.backbone} of width {args.width}, {len(CLASSES)} classes, patches of "
        f"{' x '.join(map(str, args.patch))} at 1.5 mm",
        "scan": f"{args.pixels} x {args.pixels} x {args.slices}",
        "rows": rows,
    }
    publish(args.docs, "overlap", figures, to_markdown(figures))
    return 0


def measure(config: UniversalConfig, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return time and memory for each overlap and stitching device."""
    devices = ("cpu", "cuda") if args.device == "cuda" else ("cpu",)
    rows = []
    with tempfile.TemporaryDirectory(prefix="samcancer-overlap-") as name:
        folder = Path(name)
        run = write_run(folder / "run", config, args.image_size)
        scan = made.write_scan(folder / "scan.nii.gz", args.slices, args.pixels)
        for stitch in devices:
            for overlap in args.overlaps:
                output = folder / f"{stitch}_{overlap}"
                command = [*made.COMMAND, "infer-volume", "--input", str(scan), "--output"]
                command += [str(output), "--model", str(run), "--device", args.device]
                command += ["--threads", str(args.threads), "--quiet"]
                command += ["--overlap", str(overlap), "--stitch-device", stitch]
                usage = run_watched(command, env=made.environment(args.threads))
                print(f"{stitch} {overlap}: {describe(usage)}", file=sys.stderr)
                gpu = usage.gpu_peak_bytes
                rows.append(
                    {
                        "stitch": stitch,
                        "overlap": overlap,
                        "seconds": usage.wall_s,
                        "peak_mib": usage.peak_bytes / MIB,
                        "gpu_peak_mib": None if gpu is None else gpu / MIB,
                    }
                )
    return rows


def write_run(folder: Path, config: UniversalConfig, image_size: int) -> Path:
    """Write a run folder with the network; return it."""
    model = ModelConfig(system="universal", image_size=image_size, universal=config)
    meta = CheckpointMeta(config=Config(model=model), class_names=CLASSES)
    folder.mkdir(parents=True)
    save_checkpoint(folder / "best", build_network(model, CLASSES), meta)
    return folder


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the table."""
    least = figures["rows"][0]["seconds"]
    rows = [
        [
            row["stitch"],
            f"{row['overlap']:g}",
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / least:.2f}",
            f"{row['peak_mib']:.0f}",
            "-" if row["gpu_peak_mib"] is None else f"{row['gpu_peak_mib']:.0f}",
        ]
        for row in figures["rows"]
    ]
    header = ["stitched on", "overlap", "seconds", "to the first", "peak RSS (MiB)", "GPU (MiB)"]
    head = f"`{figures['command']}` on {figures['machine']}: {figures['network']}, a scan of"
    return f"{head} {figures['scan']}, file to mask.\n\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    sys.exit(main())
