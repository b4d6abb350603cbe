"""How close the network comes to this machine's matrix product, group of layers by group.

The peak is the fastest of several square float32 products on the same threads, before and after the
network. The network is run by the engine, chunk by chunk, and every group is timed by hooks around
its modules; what no hook covers (norms and sums between them, reading, windowing) is the last row,
so that the rows add up to the whole pass. Operations are PyTorch's count, two a multiply-add, of
convolutions and products alone. Example: ``python benchmarks/roofline.py --chunks 4``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import workload as made
from results_page import markdown_table, publish, run_description
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from workload import Workload

from samcancer.config import DataConfig
from samcancer.errors import InputError
from samcancer.inference.slices import ResizedSlices
from samcancer.modeling import SamCancerNet
from samcancer.modeling.encoders import ImageEncoder
from samcancer.modeling.predict import predict_slices
from samcancer.modeling.predict_options import PredictOptions

PEAK_SIDES = (512, 1024, 2048, 4096)
"""Sides of the square products."""

SHARE_TARGET = 0.7
"""Least share of the peak over the whole pass."""

REST = "all else"
"""Row of what no group's modules cover."""

_PRODUCT_RUNS = 5
_FLOPS_MISSED = 0.01
"""Largest share of the operations that the groups may leave to ``REST``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/roofline.json."""
    parser = made.option_parser(__doc__)
    parser.add_argument("--chunks", type=int, default=4, help="chunks that are timed")
    parser.add_argument("--peak-sides", type=int, nargs="+", default=PEAK_SIDES, metavar="N")
    args = parser.parse_args(argv)
    workload = made.from_args(args)
    torch.set_num_threads(workload.threads)
    try:
        found = measure(workload, chunks=args.chunks, sides=args.peak_sides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    figures = {**run_description("roofline.py", argv), "workload": str(workload), **found}
    publish(args.docs, "roofline", figures, to_markdown(figures))
    return 0


def measure(workload: Workload, *, chunks: int, sides: Sequence[int]) -> dict[str, Any]:
    """Return the peak, and seconds and operations a slice of the whole pass and of each group.

    Raises:
        RuntimeError: When the groups do not explain the operations.
    """
    network = made.build(workload, [made.CLASS_NAME]).requires_grad_(False)
    groups = layer_groups(network)
    slices_hu = made.scan_hu(chunks * workload.batch, workload.pixels)
    source = ResizedSlices(slices_hu, workload.grid)
    flops = count_flops(network, groups, workload)
    _run(network, ResizedSlices(slices_hu[: workload.batch], workload.grid), workload.batch)
    before = peak_flops_per_s(sides)
    with _timed(groups) as seconds:
        started = time.perf_counter()
        _run(network, source, workload.batch)
        whole_s = (time.perf_counter() - started) / len(slices_hu)
    after = peak_flops_per_s(sides)
    found = {
        name: {"seconds": seconds[name] / len(slices_hu), "flops": flops[name]} for name in groups
    }
    rest_s = whole_s - sum(group["seconds"] for group in found.values())
    whole_flops = flops[REST]
    rest_flops = whole_flops - sum(group["flops"] for group in found.values())
    if rest_flops > _FLOPS_MISSED * whole_flops:
        raise RuntimeError(f"the groups miss {rest_flops / whole_flops:.1%} of the operations")
    return {
        "peak_flops_per_s": {str(side): max(before[side], after[side]) for side in sides},
        "whole": {"seconds": whole_s, "flops": whole_flops},
        "groups": {**found, REST: {"seconds": rest_s, "flops": rest_flops}},
    }


def layer_groups(network: SamCancerNet) -> dict[str, list[nn.Module]]:
    """Return the modules of each group; no module lies in another one.

    Raises:
        InputError: When the encoder is no plain ViT.
    """
    encoder, cnn = network.encoder, network.cnn
    if not isinstance(encoder, ImageEncoder):
        raise InputError("the groups are those of a plain ViT", mend="use vit_tiny or a sam_* one")
    groups: dict[str, list[nn.Module]] = {
        "encoder, attention": [block.attn for block in encoder.blocks],
        "encoder, MLP": [block.mlp for block in encoder.blocks],
        "encoder, patches and neck": [encoder.patch_embed, encoder.neck],
        "CNN, stem": [cnn.stem],
    }
    groups |= {f"CNN, down {i + 1}": [down] for i, down in enumerate(cnn.downs)}
    groups |= {f"CNN, up {i + 1}": [up] for i, up in enumerate(cnn.ups)}
    groups["exchange"] = list(network.exchanges)
    groups["class prompts"] = [network.classes, network.prompts]
    groups["mask decoder"] = [network.decoder]
    return groups


def count_flops(
    network: SamCancerNet, groups: Mapping[str, Sequence[nn.Module]], workload: Workload
) -> dict[str, float]:
    """Return the operations of a slice by group, and under ``REST`` those of the whole network."""
    flops = dict.fromkeys((*groups, REST), 0.0)
    open_at: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)
    handles = []
    for name, modules in groups.items():
        for module in modules:

            def enter(module: nn.Module, _: object) -> None:
                open_at[module] = counter.get_total_flops()

            def leave(module: nn.Module, _: object, __: object, name: str = name) -> None:
                flops[name] += (counter.get_total_flops() - open_at[module]) / workload.batch

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    chunk = torch.rand(1, workload.batch + 4, workload.image_size, workload.image_size)
    with torch.no_grad(), counter:
        network(chunk)
    for handle in handles:
        handle.remove()
    return {**flops, REST: counter.get_total_flops() / workload.batch}


def peak_flops_per_s(sides: Sequence[int]) -> dict[int, float]:
    """Return the operations a second of square float32 products, the best of some runs each."""
    found = {}
    for side in sides:
        left, right = torch.rand(2, side, side)
        out = torch.empty(side, side)
        seconds = []
        for _ in range(_PRODUCT_RUNS):
            started = time.perf_counter()
            torch.mm(left, right, out=out)
            seconds.append(time.perf_counter() - started)
        found[side] = 2 * side**3 / min(seconds)
    return found


@contextmanager
def _timed(groups: Mapping[str, Sequence[nn.Module]]) -> Iterator[dict[str, float]]:
    """Yield the seconds spent in each group, summed up while the block runs."""
    seconds = dict.fromkeys(groups, 0.0)
    started_at: dict[str, float] = {}
    handles = []
    for name, modules in groups.items():

        def enter(_: nn.Module, __: object, name: str = name) -> None:
            started_at[name] = time.perf_counter()

        def leave(_: nn.Module, __: object, ___: object, name: str = name) -> None:
            seconds[name] += time.perf_counter() - started_at[name]

        for module in modules:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    yield seconds
    for handle in handles:
        handle.remove()


def _run(network: SamCancerNet, source: ResizedSlices, batch: int) -> None:
    """Run the engine over a scan."""
    window_hu = DataConfig().inference_window_hu
    for _ in predict_slices(
        network, source, window_hu=window_hu, options=PredictOptions(batch=batch)
    ):
        pass


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables."""
    peaks, whole = figures["peak_flops_per_s"], figures["whole"]
    peak = max(peaks.values())
    share = whole["flops"] / whole["seconds"] / peak
    rows = [_row(name, group, whole, peak) for name, group in figures["groups"].items()]
    header = ["a slice", "seconds", "of the time", "GFLOP", "GFLOP/s", "of the peak"]
    sides = ", ".join(f"{value / 1e9:.0f} at {side}" for side, value in peaks.items())
    return "\n\n".join(
        [
            f"`{figures['command']}` on {figures['machine']}; {figures['workload']}.",
            f"Peak {peak / 1e9:.0f} GFLOP/s (square products: {sides}).",
            markdown_table(header, [*rows, _row("**whole image pass**", whole, whole, peak)]),
            f"Target: at least {SHARE_TARGET:.0%} of the peak over the whole pass; found "
            f"{share:.1%}, {'met' if share >= SHARE_TARGET else 'not met'}.",
        ]
    )


def _row(
    name: str, group: Mapping[str, float], whole: Mapping[str, float], peak: float
) -> list[str]:
    rate = group["flops"] / group["seconds"] if group["seconds"] > 0 else 0.0
    return [
        name,
        f"{group['seconds']:.4f}",
        f"{group['seconds'] / whole['seconds']:.1%}",
        f"{group['flops'] / 1e9:.2f}",
        f"{rate / 1e9:.1f}",
        f"{rate / peak:.1%}",
    ]


if __name__ == "__main__":
    sys.exit(main())
