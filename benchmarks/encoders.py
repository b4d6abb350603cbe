"""What each image encoder costs on this machine: loading, memory and time at 256 px.

Each encoder runs in a process of its own. The SAM encoders load a file of the official format with
random weights, made here, since what a weight is does not change what it costs; ``medsam_lite``
loads the real file and is left out without it. Seconds a slice are those of the whole network on a
chunk of slices. Example: ``python benchmarks/encoders.py --threads 1``
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from results_page import RESULTS, fill_section, markdown_table
from segment_anything import sam_model_registry

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.modeling import count_multiply_adds, count_parameters
from samcancer.pretrained import find_checkpoint
from samcancer.training.network import build_network

SAM_NAMES = {"sam_vit_b": "vit_b", "sam_vit_l": "vit_l", "sam_vit_h": "vit_h"}
"""Our name -> segment_anything's."""

ENCODERS = ("vit_tiny", "medsam_lite", *SAM_NAMES)

_CHUNK = 4
_RUNS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the encoders one by one and fill the section of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, default=RESULTS)
    parser.add_argument("--measure", metavar="CHECKPOINT", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure is not None:
        print(json.dumps(measure(args.encoders[0], args.measure or None, args.threads)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.encoders:
            try:
                checkpoint = official_file(name, Path(folder))
            except InputError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            rows.append(_row(name, _in_own_process(name, checkpoint, args.threads)))
            print(rows[-1], file=sys.stderr)
            if checkpoint is not None and checkpoint.parent == Path(folder):
                checkpoint.unlink()
    header = [
        "encoder, 256 px, width 48",
        "trained (M)",
        "frozen (M)",
        "load (s)",
        "peak memory (GB)",
        "multiply-adds a slice (G)",
        "seconds a slice",
    ]
    command = f"`python benchmarks/encoders.py --threads {args.threads}`"
    table = f"{command}, one process each, {args.threads} thread(s).\n\n"
    fill_section(args.page, "encoders", table + markdown_table(header, rows))
    return 0


def official_file(name: str, folder: Path) -> Path | None:
    """Return a weight file for an encoder; None for one that takes none.

    Raises:
        InputError: When the real file is needed and is not there.
    """
    if name in SAM_NAMES:
        path = folder / f"{name}.pth"
        torch.save(sam_model_registry[SAM_NAMES[name]]().state_dict(), path)
        return path
    return find_checkpoint(name) if name == "medsam_lite" else None


def measure(name: str, checkpoint: str | None, threads: int) -> dict[str, float]:
    """Load a network and run it; memory is this process's own."""
    torch.set_num_threads(threads)
    config = ModelConfig(encoder=name, encoder_checkpoint=checkpoint)
    started = time.perf_counter()
    model = build_network(config, ["lesion"]).eval()
    loaded_s = time.perf_counter() - started
    chunk = torch.rand(1, _CHUNK + 4, config.image_size, config.image_size)
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        with torch.inference_mode():
            model(chunk)
        seconds.append((time.perf_counter() - started) / _CHUNK)
    trained, frozen = count_parameters(model)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "trained": trained,
        "frozen": frozen,
        "load_s": loaded_s,
        "peak_gb": peak_gb,
        "multiply_adds": count_multiply_adds(model, config.image_size),
        "slice_s": min(seconds),
    }


def _in_own_process(name: str, checkpoint: Path | None, threads: int) -> dict[str, float]:
    words = ["--encoders", name, "--threads", str(threads), "--measure", str(checkpoint or "")]
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _row(name: str, found: dict[str, float]) -> list[str]:
    return [
        f"`{name}`",
        f"{found['trained'] / 1e6:.2f}",
        f"{found['frozen'] / 1e6:.2f}",
        f"{found['load_s']:.1f}",
        f"{found['peak_gb']:.2f}",
        f"{found['multiply_adds'] / 1e9:.1f}",
        f"{found['slice_s']:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
