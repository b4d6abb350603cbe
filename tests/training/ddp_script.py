"""Train the small network in the folder given; started by test_devices as a process of its own.

Arguments: folder, number of CPU processes, forward pass in which the first process gets SIGTERM or
0, ``resume`` or nothing.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import SmallNet, make_job, small_config, small_net

from samcancer.modeling import NetOutput
from samcancer.training.devices import start_fabric
from samcancer.training.loop import train


class StoppingNet(SmallNet):
    stop_at = 0
    calls = 0

    def forward(self, *inputs: Any) -> NetOutput:
        self.calls += self.training
        if (
            self.training
            and self.calls == self.stop_at
            and os.environ.get("LOCAL_RANK", "0") == "0"
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(*inputs)


def main(folder: Path, devices: int, stop_at: int, *, resume: bool) -> None:
    torch.set_num_threads(1)
    fabric = start_fabric(accelerator="cpu", devices=devices, precision="32-true")
    model = StoppingNet()
    model.load_state_dict(small_net().state_dict())
    model.stop_at = stop_at
    folder.mkdir(exist_ok=True)
    job = make_job(folder, small_config(epochs=2))
    result = train(model, job, fabric=fabric, resume=resume, show_progress=False)
    if fabric.is_global_zero:
        print(result.outcome, result.steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), resume="resume" in sys.argv)
