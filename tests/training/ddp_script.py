"""Train a small network in the folder given, as one of several processes or alone.

Started by run_processes or torchrun from tests. Arguments: folder, then ``name=value`` of:
net (small or real), rate, epochs, batch, samples; rank and call of ``die`` or ``stop`` (1:5 is the
fifth forward pass of rank 1), resume=1. The first process writes the loss of every step to
losses.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import SmallNet, make_job, small_config, small_net

from samcancer.config import Config, ModelConfig
from samcancer.errors import InputError
from samcancer.modeling import NetOutput
from samcancer.training.devices import start_fabric
from samcancer.training.epoch_log import EpochMeter
from samcancer.training.loop import train
from samcancer.training.losses import LossParts
from samcancer.training.network import build_network
from samcancer.training.processes import launched_world, one_of


class SignallingNet(SmallNet):
    """Sends a signal to its own process in one of its forward passes."""

    signal_at: tuple[signal.Signals, int] | None = None
    calls = 0

    def forward(self, *inputs: Any) -> NetOutput:
        self.calls += self.training
        if self.training and self.signal_at is not None and self.calls == self.signal_at[1]:
            os.kill(os.getpid(), self.signal_at[0])
        return super().forward(*inputs)


class RecordingMeter(EpochMeter):
    """Keeps the loss of every step."""

    losses: list[float] = []  # noqa: RUF012 - of the process

    def add(self, parts: LossParts, *, samples: int) -> None:
        super().add(parts, samples=samples)
        self.losses.append(float(parts.total))


def config_of(options: dict[str, str]) -> Config:
    """A real network has batch norms, prompts and no dropout; the small one has dropout."""
    config = small_config(
        epochs=int(options.get("epochs", 2)),
        batch_size=int(options.get("batch", 4)),
        samples_per_epoch=int(options.get("samples", 12)),
        manual_prompts=0.5,
        learning_rate=float(options.get("rate", 1e-2)),
    )
    if options.get("net") == "real":
        config = Config(
            model=ModelConfig(image_size=32, cnn_width=4),
            data=config.data,
            augmentation=config.augmentation,
            train=config.train,
        )
    return config


def network(options: dict[str, str], config: Config, rank: int) -> torch.nn.Module:
    if options.get("net") == "real":
        return build_network(config.model, ("liver_lesion", "kidney_lesion"), seed=0)
    small = SignallingNet()
    small.load_state_dict(small_net().state_dict())
    for name, number in (("die", signal.SIGKILL), ("stop", signal.SIGTERM)):
        if name in options:
            at_rank, call = map(int, options[name].split(":"))
            if rank == at_rank:
                small.signal_at = number, call
    return small


def main(folder: Path, options: dict[str, str]) -> int:
    torch.set_num_threads(1)
    config = config_of(options)
    fabric = start_fabric(accelerator="cpu", precision="32-true")
    folder.mkdir(exist_ok=True)
    sys.modules["samcancer.training.loop"].EpochMeter = RecordingMeter  # type: ignore[attr-defined]
    job = make_job(folder, config)
    result = train(
        network(options, config, fabric.global_rank),
        job,
        fabric=fabric,
        resume=options.get("resume") == "1",
        show_progress=False,
    )
    if fabric.is_global_zero:
        (folder / "losses.json").write_text(json.dumps(RecordingMeter.losses))
    return 0 if result.outcome == "finished" else 130


def as_a_command(folder: Path, options: dict[str, str]) -> int:
    world = launched_world()
    try:
        if world is None:
            return main(folder, options)
        with one_of(world):
            return main(folder, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    given = dict(word.split("=") for word in sys.argv[2:])
    sys.exit(as_a_command(Path(sys.argv[1]), given))
