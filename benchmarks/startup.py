"""How long the console command takes from the start of the process to its end.

Every run is a process of its own, and the commands take turns. One turn that is not counted comes
first, so that files lie in the system's cache and byte code is written. The scan and the untrained
network are tiny, so what is measured is starting, not segmenting.
Example: ``python benchmarks/startup.py --runs 9``
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_page import RESULTS, fill_section, markdown_table, processor_name

from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.files import write_json_atomic
from samcancer.geometry import Geometry
from samcancer.modeling import build_model
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.volume_io import write_ct

_CONSOLE = "import sys; from samcancer.commands import main; sys.exit(main())"
"""What the installed ``samcancer`` does."""

_PREDICT_PATH = "import samcancer.inference.batch, samcancer.volume_io.nifti"

_SCAN_SHAPE = (8, 96, 96)
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and fill the section of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="samcancer-startup-") as folder:
        figures = measure(args.runs, Path(folder))
    markdown = to_markdown(figures)
    print(markdown)
    write_json_atomic(args.docs / "startup.json", figures)
    fill_section(args.docs / RESULTS.name, "startup", markdown)
    return 0


def measure(runs: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of every run of every command."""
    commands = {
        "`python -c 'import torch'`, for comparison": ["-c", "import torch"],
        "`samcancer --help`": ["-c", _CONSOLE, "--help"],
        "`samcancer infer-volume --help`": ["-c", _CONSOLE, "infer-volume", "--help"],
        "importing what `infer-volume` runs": ["-c", _PREDICT_PATH],
        "`samcancer infer-volume`, one tiny scan": ["-c", _CONSOLE, *_tiny_job(folder)],
    }
    return {
        "command": f"python benchmarks/startup.py --runs {runs}",
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "runs": runs,
        "seconds": time_runs(commands, runs),
    }


def time_runs(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, list[float]]:
    """Return the seconds of each process; commands take turns, and the first turn is not counted.

    Args:
        commands: Name -> arguments of Python.
        runs: Turns that count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, words in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    return {name: found[1:] for name, found in seconds.items()}


def to_markdown(figures: dict[str, Any]) -> str:
    """Return best and median of every command."""
    rows = [
        [name, f"{min(seconds):.2f}", f"{statistics.median(seconds):.2f}"]
        for name, seconds in figures["seconds"].items()
    ]
    head = f"`{figures['command']}` on {figures['machine']}, {figures['runs']} runs each."
    return f"{head}\n\n{markdown_table(['process, start to end', 'best (s)', 'median (s)'], rows)}"


def _tiny_job(folder: Path) -> list[str]:
    """Write a scan and an untrained network; return the arguments that segment it."""
    hu = np.random.default_rng(0).normal(40, 30, _SCAN_SHAPE).astype(np.int16)
    geometry = Geometry(_SCAN_SHAPE[::-1], (0.8, 0.8, 5.0), (0.0, 0.0, 0.0), _AXIAL)
    write_ct(folder / "scan.nii.gz", hu, geometry)
    classes = ("liver_lesion",)
    config = Config(
        model=ModelConfig(image_size=64, cnn_width=4),
        data=DataConfig(inference_window_hu=(-160.0, 240.0)),
    )
    torch.manual_seed(0)
    (folder / "run").mkdir()
    network = build_model(config.model, classes)
    meta = CheckpointMeta(config=config, class_names=classes)
    save_checkpoint(folder / "run" / "best", network, meta)
    words = ["infer-volume", "--input", folder / "scan.nii.gz", "--output", folder / "masks"]
    return [str(word) for word in [*words, "--model", folder / "run", "--device", "cpu"]]


if __name__ == "__main__":
    sys.exit(main())
