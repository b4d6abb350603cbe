"""Time, peak memory and memory-time area of a scan, by the protocol of the efficiency challenges.

``samcancer infer-volume`` runs on one scan as a process of its own, as the challenges run a
container on one case: sampled every 0.1 s from its start to its end, resident memory and, with
``--device cuda``, GPU memory. A command after ``--`` is watched the same way and only printed.
Example: ``python benchmarks/efficiency.py --slices 100``
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import workload as made
from resource_use import MIB, Usage, describe, run_watched
from results_page import markdown_table, publish, run_description
from workload import Workload

from samcancer.errors import InputError

SLICES = (50, 100, 250)


class Published(NamedTuple):
    """What a paper states of a case; None where it states nothing."""

    name: str
    seconds: str
    peak_mb: int | None = None
    """GPU memory."""
    area_mb_s: int | None = None
    """GPU memory over time."""


PUBLISHED = (
    Published("SAMCancer paper", "18.05", 3563, 38960),
    Published("two-stage pseudo-label paper", "18.95", None, 20790),
    Published("Universal Model paper", "30 to 91"),
)
"""On GPUs of the RTX 5000 class and the papers' own cases."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/efficiency.json."""
    parser = made.option_parser(__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=SLICES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("command", nargs="*", help="another command to watch, after --")
    args = parser.parse_args(argv)
    try:
        if args.command:
            print(describe(run_watched(args.command)))
            return 0
        figures = {
            **run_description("efficiency.py", argv),
            "workload": str(made.from_args(args)),
            "device": args.device,
            "scans": measure(made.from_args(args), args.slices, device=args.device),
        }
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, "efficiency", figures, to_markdown(figures))
    return 0


def measure(workload: Workload, lengths: Sequence[int], *, device: str) -> list[dict[str, Any]]:
    """Return what ``infer-volume`` uses for a scan of each length."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="samcancer-efficiency-") as name:
        folder = Path(name)
        run = made.write_run(folder / "run", workload)
        for slices in lengths:
            scan = made.write_scan(folder / f"scan_{slices}.nii.gz", slices, workload.pixels)
            command = made.infer_command(scan, folder / "masks", run, workload, device=device)
            usage = run_watched(command, env=made.environment(workload.threads))
            print(f"{slices} slices: {describe(usage)}", file=sys.stderr)
            rows.append({"slices": slices, "pixels": workload.pixels, **_in_mib(usage)})
    return rows


def _in_mib(usage: Usage) -> dict[str, float | None]:
    return {
        "wall_s": usage.wall_s,
        "peak_mib": usage.peak_bytes / MIB,
        "area_mib_s": usage.area_byte_s / MIB,
        "gpu_peak_mib": None if usage.gpu_peak_bytes is None else usage.gpu_peak_bytes / MIB,
        "gpu_area_mib_s": None if usage.gpu_area_byte_s is None else usage.gpu_area_byte_s / MIB,
    }


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the table, with the papers' figures below ours."""
    keys = ("peak_mib", "area_mib_s", "gpu_peak_mib", "gpu_area_mib_s")
    rows = [
        [
            f"ours, {scan['pixels']} x {scan['pixels']} x {scan['slices']}, {figures['device']}",
            f"{scan['wall_s']:.2f}",
            *(_rounded(scan[key]) for key in keys),
        ]
        for scan in figures["scans"]
    ]
    rows += [
        [f"{paper.name}, GPU", paper.seconds, "-", "-", *map(_rounded, paper[2:])]
        for paper in PUBLISHED
    ]
    header = [
        "case",
        "seconds",
        "peak RSS (MiB)",
        "RSS area (MiB s)",
        "GPU peak (MiB)",
        "GPU area (MiB s)",
    ]
    head = f"`{figures['command']}` on {figures['machine']}; {figures['workload']}."
    return f"{head}\n\n{markdown_table(header, rows)}"


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
