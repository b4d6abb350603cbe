"""What the engine gains over stacks, and what longer scans and more classes cost.

Stacks: one scan in memory, chunks against 5-slice stacks on their own, each stack an item of a
batch for the same network. Scaling: ``samcancer infer-volume``, file to mask, over scans of growing
length, one process each; memory over the loaded model and over the scan and mask. Classes: as for
stacks, one process a number of classes, all present in every slice or none in any.
Example: ``python benchmarks/engine.py --slices 25 50 100 250 500 1000``
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import workload as made
from numpy.typing import NDArray
from resource_use import MIB, high_water_bytes, resident_bytes, run_watched
from results_page import markdown_table, publish, run_description
from torch import Tensor, nn
from workload import SPACING_MM, Workload

from samcancer.config import SLICE_CONTEXT, DataConfig
from samcancer.errors import InputError
from samcancer.files import read_json
from samcancer.inference.volume import EngineOptions, LabelMaps, predict_volume
from samcancer.modeling import NetOutput
from samcancer.modeling.slice_prediction import Member

SLICES = (25, 50, 100, 250, 500, 1000)
CLASSES = (1, 4, 15, 32)

STACK_TARGET = 2.0
"""Least gain over stacks."""
CLASS_TARGET = (15, 1.3)
"""A number of classes, and the most that they may cost relative to one."""
MEMORY_TARGET = (1000, 1.6 * 1024)
"""A number of slices, and the most MiB over the loaded model."""

_STACK = 2 * SLICE_CONTEXT + 1
_SCAN_AND_MASK_BYTES = 3
"""Of a voxel: int16 HU and a uint8 label."""
_PRESENCE_TOLERANCE = 1e-3
"""Largest difference in presence between the engine and stacks; more would be another network."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write docs/engine.json."""
    parser = made.option_parser(__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=SLICES, help="of the scaling")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--in-memory", type=int, default=32, help="slices for stacks and classes")
    parser.add_argument("--runs", type=int, default=2, help="of which the best counts")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure is not None:
        print(json.dumps(_measure(**json.loads(args.measure))))
        return 0
    try:
        figures = {**run_description("engine.py", argv), **measure_all(args)}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, "engine", figures, to_markdown(figures))
    return 0


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    """Run every measurement in a process of its own."""
    workload = made.from_args(args)
    settings = {"slices": args.in_memory, "runs": args.runs}
    stacks = made.in_own_process(__file__, "stacks", workload, **settings)
    print(f"stacks: {stacks}", file=sys.stderr)
    classes = {}
    for count in args.classes:
        classes[str(count)] = made.in_own_process(
            __file__, "classes", workload, classes=count, **settings
        )
        print(f"{count} classes: {classes[str(count)]}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="samcancer-engine-") as folder:
        scaling = measure_scaling(workload, args.slices, Path(folder))
    return {"workload": str(workload), "stacks": stacks, "classes": classes, "scaling": scaling}


def measure_stacks(workload: Workload, *, slices: int, runs: int) -> dict[str, float]:
    """Seconds a slice of the engine and of stacks by the batch and one by one, taken in turns."""
    network = made.build(workload, [made.CLASS_NAME])
    systems: dict[str, nn.Module] = {
        "engine": network,
        "stacks": StackByStack(network, workload.batch),
        "single_stacks": StackByStack(network, 1),
    }
    volume_hu = made.scan_hu(slices, workload.pixels)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    presence = {}
    for system in systems.values():
        predict(workload, system, volume_hu[: workload.batch], threshold=made.ALWAYS)
    for _ in range(runs):
        for name, system in systems.items():
            run_s, presence[name] = predict(workload, system, volume_hu, threshold=made.ALWAYS)
            seconds[name].append(run_s / slices)
    if np.abs(presence["engine"] - presence["stacks"]).max() > _PRESENCE_TOLERANCE:
        raise InputError("the engine and its stacks predict different things")
    return {name: min(found) for name, found in seconds.items()}


def measure_classes(
    workload: Workload, *, classes: int, slices: int, runs: int
) -> dict[str, float]:
    """Seconds a slice with every class in every slice, and with none in any."""
    network = made.build(workload, [f"class_{k}" for k in range(classes)])
    volume_hu = made.scan_hu(slices, workload.pixels)
    predict(workload, network, volume_hu[: workload.batch], threshold=made.ALWAYS)
    return {
        name: min(
            predict(workload, network, volume_hu, threshold=threshold)[0] / slices
            for _ in range(runs)
        )
        for name, threshold in (("present", made.ALWAYS), ("absent", made.NEVER))
    }


def measure_loaded(_: Workload, *, run: str) -> dict[str, int]:
    """Memory of a process that has loaded the model as ``infer-volume`` does, and the most yet."""
    from samcancer.inference.models import load_ensemble

    ensemble = load_ensemble([Path(run)], device="cpu")
    found = {"resident_bytes": resident_bytes(), "peak_bytes": high_water_bytes()}
    del ensemble
    return found


def measure_scaling(workload: Workload, lengths: Sequence[int], folder: Path) -> dict[str, Any]:
    """Time and peak memory of the whole command for scans of growing length."""
    run = made.write_run(folder / "run", workload)
    loaded = made.in_own_process(__file__, "loaded", workload, run=str(run))
    rows = []
    for slices in lengths:
        scan = made.write_scan(folder / f"scan_{slices}.nii.gz", slices, workload.pixels)
        masks = folder / "masks"
        command = made.infer_command(scan, masks, run, workload)
        usage = run_watched(command, env=made.environment(workload.threads))
        seconds = read_json(masks / f"scan_{slices}.json")["seconds"]
        scan.unlink()
        over_model = usage.peak_bytes - loaded["resident_bytes"]
        arrays = slices * workload.pixels**2 * _SCAN_AND_MASK_BYTES
        row = {
            "slices": slices,
            "wall_s": usage.wall_s,
            "predict_s": seconds["predict"],
            "peak_mib": usage.peak_bytes / MIB,
            "over_model_mib": over_model / MIB,
            "over_arrays_mib": (over_model - arrays) / MIB,
        }
        print(row, file=sys.stderr)
        rows.append(row)
    return {
        "loaded_mib": loaded["resident_bytes"] / MIB,
        "loading_mib": loaded["peak_bytes"] / MIB,
        "scans": rows,
    }


def predict(
    workload: Workload, network: nn.Module, volume_hu: NDArray[np.int16], *, threshold: float
) -> tuple[float, NDArray[np.float32]]:
    """Segment a scan in memory: seconds, and presence probabilities (Z, K)."""
    names: Any = network.class_names
    maps = LabelMaps(lesions=np.zeros(volume_hu.shape, dtype=np.uint8))
    started = time.perf_counter()
    presence = predict_volume(
        [Member(network, DataConfig().inference_window_hu)],
        volume_hu,
        grid=workload.grid,
        slice_mm=SPACING_MM[2],
        is_lesion=[True] * len(names),
        thresholds=torch.full((len(names),), threshold),
        maps=maps,
        options=EngineOptions(batch=workload.batch),
    )
    return time.perf_counter() - started, presence


class StackByStack(nn.Module):
    """A network run on every 5-slice stack on its own, behind the interface of the network.

    Reading, resizing, windowing and writing of the label map stay the engine's.
    """

    def __init__(self, network: nn.Module, batch: int) -> None:
        """Take the network and the stacks that go through it together."""
        super().__init__()
        self.class_names: Any = network.class_names
        self.network = network
        self.batch = batch

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> NetOutput:
        """(1, T+4, S, S) -> logits of the T target slices."""
        del presence
        stacks = chunk[0].unfold(0, _STACK, 1).movedim(-1, 1).contiguous()
        outputs = [self.network(part) for part in stacks.split(self.batch)]
        return NetOutput(
            torch.cat([o.mask_logits for o in outputs]).transpose(0, 1),
            torch.cat([o.presence_logits for o in outputs]).transpose(0, 1),
        )


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables."""
    parts = [
        f"`{figures['command']}` on {figures['machine']}; {figures['workload']}.",
        _stack_table(figures["stacks"]),
        _scaling_table(figures["scaling"]),
        _class_table(figures["classes"]),
        markdown_table(["target", "asked for", "found", "met"], _targets(figures)),
    ]
    return "\n\n".join(parts)


def _stack_table(stacks: Mapping[str, float]) -> str:
    titles = {
        "engine": "engine, chunks",
        "stacks": "5-slice stacks, by the batch",
        "single_stacks": "5-slice stacks, one by one",
    }
    rows = [
        [title, f"{stacks[name]:.4f}", f"{stacks[name] / stacks['engine']:.2f}"]
        for name, title in titles.items()
    ]
    return markdown_table(["scan in memory", "seconds a slice", "times the engine's"], rows)


def _scaling_table(scaling: Mapping[str, Any]) -> str:
    scans = scaling["scans"]
    first_s = scans[0]["predict_s"] / scans[0]["slices"]
    rows = [
        [
            str(scan["slices"]),
            f"{scan['wall_s']:.1f}",
            f"{scan['predict_s']:.1f}",
            f"{scan['predict_s'] / scan['slices']:.4f}",
            f"{scan['predict_s'] / scan['slices'] / first_s:.2f}",
            f"{scan['peak_mib']:.0f}",
            f"{scan['over_model_mib']:.0f}",
            f"{scan['over_arrays_mib']:.0f}",
        ]
        for scan in scans
    ]
    header = [
        "slices",
        "process (s)",
        "prediction (s)",
        "a slice (s)",
        "times the first row's",
        "peak RSS (MiB)",
        "over the loaded model",
        "over model, scan and mask",
    ]
    loaded = (
        f"`samcancer infer-volume`. With the model loaded {scaling['loaded_mib']:.0f} MiB; while "
        f"loading at most {scaling['loading_mib']:.0f} MiB, which no peak below can undercut."
    )
    return f"{loaded}\n\n{markdown_table(header, rows)}"


def _class_table(classes: Mapping[str, Mapping[str, float]]) -> str:
    one = next(iter(classes.values()))
    rows = [
        [count, *(f"{found[k]:.4f} ({found[k] / one[k]:.2f})" for k in ("present", "absent"))]
        for count, found in classes.items()
    ]
    header = ["classes", "all in every slice: seconds a slice (times the first row's)", "in none"]
    return markdown_table(header, rows)


def _targets(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each target whose size was measured."""
    gain = figures["stacks"]["stacks"] / figures["stacks"]["engine"]
    rows = [_target("gain over stacks", f"at least {STACK_TARGET}", gain, gain >= STACK_TARGET)]
    classes, (count, limit) = figures["classes"], CLASS_TARGET
    if str(count) in classes and "1" in classes:
        cost = classes[str(count)]["present"] / classes["1"]["present"]
        rows.append(_target(f"{count} classes against 1", f"at most {limit}", cost, cost <= limit))
    slices, limit_mib = MEMORY_TARGET
    for scan in figures["scaling"]["scans"]:
        if scan["slices"] == slices:
            used = scan["over_model_mib"]
            name = f"{slices} slices, MiB over the loaded model"
            rows.append(_target(name, f"at most {limit_mib:.0f}", used, used <= limit_mib))
    return rows


def _target(name: str, asked: str, found: float, met: bool) -> list[str]:
    return [name, asked, f"{found:.4g}", "yes" if met else "no"]


def _measure(what: str, workload: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Run one measurement in this process."""
    chosen = {"stacks": measure_stacks, "classes": measure_classes, "loaded": measure_loaded}
    asked = Workload(**workload)
    torch.set_num_threads(asked.threads)
    return chosen[what](asked, **settings)  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
