"""How fast the network alone runs on this machine's CPU, without data loading or files.

Processor seconds, the best of some runs, so that other work on the machine hardly shows.
Example: ``python benchmarks/network_speed.py --threads 1``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from samcancer.config import ModelConfig
from samcancer.modeling import SamCancerNet, build_model

NETWORKS = (
    ModelConfig(encoder="vit_tiny", image_size=96, cnn_width=12),
    ModelConfig(encoder="vit_tiny", image_size=128, cnn_width=16),
    ModelConfig(encoder="sam_vit_b", image_size=256, cnn_width=48),
)

_TRAINED = "vit_tiny"
"""The encoder whose training is timed; the large ones are trained on GPUs."""
_RUNS = 5
_BATCH = 16
_CHUNK = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Time every network and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for config in NETWORKS:
        model = build_model(config, ["lesion"])
        name = f"{config.encoder}, {config.image_size} px, width {config.cnn_width}"
        if config.encoder == _TRAINED:
            step_s = best_s(training_step(model, config.image_size))
            print(f"{name}: training {_BATCH / step_s:.1f} stacks per processor second")
        slice_s = best_s(inference_step(model.eval(), config.image_size)) / _CHUNK
        print(f"{name}: inference {slice_s:.4f} processor seconds a slice")
    return 0


def training_step(model: SamCancerNet, size: int) -> Callable[[], None]:
    """Return a step of forward, backward and Adam on random stacks."""
    optimiser = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True
    )
    chunk, present = torch.rand(_BATCH, 5, size, size), torch.ones(_BATCH, 1, 1)
    masks = (torch.rand(_BATCH, 1, 1, size, size) > 0.97).float()

    def step() -> None:
        output = model(chunk, present)
        loss = binary_cross_entropy_with_logits(output.mask_logits, masks)
        loss = loss + binary_cross_entropy_with_logits(output.presence_logits, present)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def inference_step(model: SamCancerNet, size: int) -> Callable[[], None]:
    """Return a forward pass over one chunk."""
    chunk = torch.rand(1, _CHUNK + 4, size, size)

    def step() -> None:
        with torch.inference_mode():
            model(chunk)

    return step


def best_s(step: Callable[[], None]) -> float:
    """Least processor seconds of a step."""
    times = []
    for _ in range(_RUNS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
