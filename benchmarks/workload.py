"""What the benchmarks of inference measure: one network, one kind of scan, processes of their own.

The network has random weights, since what a weight is does not change what it costs, but its mask
bias is moved until ``POSITIVE_SHARE`` of the pixels are positive, so that masks are really written.
A class counts as present in every slice (``ALWAYS``) or in none (``NEVER``) by its threshold.
A scan is an ellipse of noisy tissue in air, with the spacing of a common abdominal CT.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from results_page import RESULTS
from torch import Tensor

from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.geometry import Geometry
from samcancer.inference.slices import ResizedSlices
from samcancer.inplane import InPlaneGrid
from samcancer.modeling import SamCancerNet
from samcancer.training.checkpoint import BEST, CheckpointMeta, save_checkpoint
from samcancer.training.network import build_network
from samcancer.volume_io import write_ct
from samcancer.windowing import window

SPACING_MM = (0.8, 0.8, 2.5)
"""Of the scans, in (x, y, z) order."""

POSITIVE_SHARE = 0.02
"""Share of a slice's pixels in which each class has a positive logit."""

ALWAYS = 0.0
"""Presence threshold by which a class is present in every slice."""

NEVER = 1.0
"""Presence threshold by which a class of an untrained network is present in none."""

CLASS_NAME = "lesion"
"""Of a network with one class, by the packaged taxonomy."""

COMMAND = (
    sys.executable,
    "-c",
    "import sys; from samcancer.commands import main; sys.exit(main())",
)
"""Starts ``samcancer`` with this interpreter."""

_AIR_HU, _TISSUE_HU, _NOISE_HU = -1000, 40, 25
_SEED = 0
_BIAS_SLICES = 2
_SHARE_TOLERANCE = 0.5
"""Largest relative error of ``POSITIVE_SHARE``."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The network and how it is run; the defaults are those the targets are set for."""

    encoder: str = "sam_vit_b"
    image_size: int = 256
    cnn_width: int = 48
    pixels: int = 512
    """Rows, and columns, of the scans."""
    batch: int = 8
    """Slices per chunk."""
    threads: int = 2

    def __str__(self) -> str:
        """Describe it for the reader of a table."""
        return (
            f"`{self.encoder}`, {self.image_size} px, width {self.cnn_width}, float32, chunks of "
            f"{self.batch} slices, {self.threads} thread(s)"
        )

    @property
    def grid(self) -> InPlaneGrid:
        """In-plane grid of the scans."""
        column_mm, row_mm, _ = SPACING_MM
        return InPlaneGrid(self.pixels, self.pixels, row_mm, column_mm, self.image_size)


def option_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options of a workload, described by a script's docstring."""
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0],
        epilog=f"example: {doc.partition('Example:')[2].strip().replace('``', '')}",
    )
    default = Workload(threads=os.cpu_count() or 1)
    parser.add_argument("--encoder", default=default.encoder)
    parser.add_argument("--image-size", type=int, default=default.image_size, metavar="PX")
    parser.add_argument("--cnn-width", type=int, default=default.cnn_width, metavar="N")
    parser.add_argument("--pixels", type=int, default=default.pixels, help="rows of a scan")
    parser.add_argument("--batch", type=int, default=default.batch, help="slices per chunk")
    parser.add_argument("--threads", type=int, default=default.threads, help="default all cores")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent, help="JSON and results.md")
    return parser


def from_args(args: argparse.Namespace) -> Workload:
    """Return the workload that was asked for."""
    names = [field.name for field in dataclasses.fields(Workload)]
    return Workload(**{name: getattr(args, name) for name in names})


def build(workload: Workload, class_names: Sequence[str]) -> SamCancerNet:
    """Return the network, ready to predict, with ``POSITIVE_SHARE`` of its pixels positive."""
    config = ModelConfig(
        encoder=workload.encoder, image_size=workload.image_size, cnn_width=workload.cnn_width
    )
    network: Any = build_network(config, class_names, seed=_SEED)
    network.eval()
    slices_hu = ResizedSlices(scan_hu(_BIAS_SLICES, workload.pixels), workload.grid)[:]
    chunk = window(slices_hu.float(), DataConfig().inference_window_hu)[None]
    with torch.no_grad():
        rows: Tensor = network.classes.rows
        rows[:, -1] -= torch.quantile(_class_logits(network, chunk), 1 - POSITIVE_SHARE, dim=1)
        found = (_class_logits(network, chunk) > 0).float().mean(dim=1)
    if ((found / POSITIVE_SHARE - 1).abs() > _SHARE_TOLERANCE).any():
        raise RuntimeError("a class row no longer ends in the bias of its mask")
    return network  # type: ignore[no-any-return]


def _class_logits(network: SamCancerNet, chunk: Tensor) -> Tensor:
    """Return the mask logits of each class, (K, all pixels)."""
    logits = network(chunk).mask_logits[0]
    return logits.transpose(0, 1).flatten(1)


def scan_hu(slices: int, pixels: int) -> NDArray[np.int16]:
    """Return a scan (slices, pixels, pixels): an ellipse of noisy tissue in air."""
    place = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    inside = (place[:, None] / 0.6) ** 2 + (place[None, :] / 0.85) ** 2 < 1
    generator = np.random.default_rng(_SEED)
    scan = np.full((slices, pixels, pixels), _AIR_HU, dtype=np.int16)
    for plane in scan:
        noise = generator.standard_normal(int(inside.sum()), dtype=np.float32)
        plane[inside] = _TISSUE_HU + _NOISE_HU * noise
    return scan


def write_scan(path: Path, slices: int, pixels: int) -> Path:
    """Write the scan as a file of the path's ending and return the path."""
    geometry = Geometry(
        size_xyz=(pixels, pixels, slices),
        spacing_mm=SPACING_MM,
        origin_mm=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    write_ct(path, scan_hu(slices, pixels), geometry)
    return path


def write_run(folder: Path, workload: Workload) -> Path:
    """Write a run folder with the network, its one class present in every slice; return it."""
    network = build(workload, [CLASS_NAME])
    model = ModelConfig(
        encoder=workload.encoder, image_size=workload.image_size, cnn_width=workload.cnn_width
    )
    meta = CheckpointMeta(
        config=Config(model=model),
        class_names=(CLASS_NAME,),
        presence_thresholds={CLASS_NAME: ALWAYS},
    )
    folder.mkdir(parents=True)
    save_checkpoint(folder / BEST, network, meta)
    return folder


def infer_command(
    scan: Path, output: Path, run: Path, workload: Workload, *, device: str = "cpu"
) -> list[str]:
    """Return the command line that segments a scan."""
    words = ["infer-volume", "--input", scan, "--output", output, "--model", run, "--quiet"]
    words += ["--device", device, "--batch", workload.batch, "--threads", workload.threads]
    return [*COMMAND, *map(str, words)]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a measured process: the same OpenMP settings for all of them."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def in_own_process(
    script: str, measurement: str, workload: Workload, **settings: object
) -> dict[str, Any]:
    """Run ``script --measure ...`` in a fresh process and return what it prints as JSON."""
    asked = {"what": measurement, "workload": dataclasses.asdict(workload), "settings": settings}
    done = subprocess.run(
        [sys.executable, script, "--measure", json.dumps(asked)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(workload.threads),
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))
