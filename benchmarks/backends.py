"""The network by PyTorch as it is, by torch.compile and by OpenVINO, on this machine's CPU.

Each backend runs a chunk with every mask drawn, in a process of its own; the difference is the
largest of a mask logit from PyTorch's. OpenVINO is left out where it is not installed.
Example: ``python benchmarks/backends.py --threads 2``
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import workload as made
from results_page import markdown_table, publish, run_description
from torch import Tensor, nn
from workload import Workload

from samcancer.config import SLICE_CONTEXT
from samcancer.errors import InputError

BACKENDS = ("eager", "torch.compile", "openvino")

_RUNS = 3
_REFERENCE = "eager.pt"

Run = Callable[[Tensor], Any]


class Whole(nn.Module):
    """A network that looks and draws in one go, as the backends want it."""

    def __init__(self, network: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.network: Any = network

    def forward(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """(1, T+4, S, S) -> mask logits and presence logits."""
        look = self.network.look(chunk)
        return self.network.outline(look), look.presence_logits


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every backend, print the table and write docs/backends.json."""
    parser = made.option_parser(__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--measure", help="one measurement, as JSON; for this script itself")
    args = parser.parse_args(argv)
    if args.measure is not None:
        asked = json.loads(args.measure)
        workload = Workload(**asked["workload"])
        print(json.dumps(measure(asked["what"], workload, **asked["settings"])))
        return 0
    workload = made.from_args(args)
    rows = {}
    try:
        with tempfile.TemporaryDirectory(prefix="samcancer-backends-") as folder:
            for name in args.backends:
                if name == "openvino" and importlib.util.find_spec("openvino") is None:
                    print("left out: openvino is not installed", file=sys.stderr)
                    continue
                rows[name] = made.in_own_process(__file__, name, workload, folder=folder)
                print(name, rows[name], file=sys.stderr)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    figures = {
        **run_description("backends.py", argv),
        "workload": str(workload),
        "backends": rows,
    }
    publish(args.docs, "backends", figures, to_markdown(figures))
    return 0


def measure(backend: str, workload: Workload, *, folder: str) -> dict[str, float]:
    """Return seconds to prepare and seconds a slice of a backend, and how far it is from eager."""
    torch.set_num_threads(workload.threads)
    network = Whole(made.build(workload, [made.CLASS_NAME])).eval()
    generator = torch.Generator().manual_seed(0)
    shape = (1, workload.batch + 2 * SLICE_CONTEXT, workload.image_size, workload.image_size)
    chunk = torch.rand(shape, generator=generator)
    with torch.inference_mode():
        started = time.perf_counter()
        run = _prepared(backend, network, chunk, workload.threads)
        logits = torch.as_tensor(run(chunk)[0])
        prepare_s = time.perf_counter() - started
        seconds = []
        for _ in range(_RUNS):
            started = time.perf_counter()
            run(chunk)
            seconds.append((time.perf_counter() - started) / workload.batch)
    reference = Path(folder) / _REFERENCE
    if not reference.exists():
        torch.save(logits, reference)
    difference = (logits - torch.load(reference, weights_only=True)).abs().max().item()
    return {"prepare_s": prepare_s, "slice_s": min(seconds), "difference": difference}


def _prepared(backend: str, network: nn.Module, chunk: Tensor, threads: int) -> Run:
    if backend == "torch.compile":
        return torch.compile(network)
    if backend != "openvino":
        return network
    import openvino

    with torch.inference_mode(mode=False), torch.no_grad():
        model = openvino.convert_model(torch.export.export(network, (chunk.clone(),)))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda x: compiled(x.numpy())


def to_markdown(figures: Mapping[str, Any]) -> str:
    """Return the table."""
    rows = figures["backends"]
    eager_s = next(iter(rows.values()))["slice_s"]
    cells = [
        [
            name,
            f"{row['prepare_s']:.1f}",
            f"{row['slice_s']:.3f}",
            f"{eager_s / row['slice_s']:.2f}",
            f"{row['difference']:.1e}",
        ]
        for name, row in rows.items()
    ]
    header = ["backend", "to prepare (s)", "seconds a slice", "gain", "largest difference"]
    head = f"`{figures['command']}` on {figures['machine']}; {figures['workload']}."
    return f"{head}\n\n{markdown_table(header, cells)}"


if __name__ == "__main__":
    sys.exit(main())
