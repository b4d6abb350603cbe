from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from samcancer.errors import InputError
from samcancer.training.devices import start_fabric
from samcancer.training.epoch_log import read_log

HERE = Path(__file__).parent


def run_script(folder: Path, *, devices: int, stop_at: int = 0, resume: bool = False) -> str:
    """Train in a process of its own, as Fabric starts the further processes by its command."""
    arguments = [str(folder), str(devices), str(stop_at), *(["resume"] if resume else [])]
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "ddp_script.py"), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_two_processes_train_resume_and_agree(tmp_path: Path) -> None:
    assert run_script(tmp_path / "whole", devices=2) == "finished 6"
    assert run_script(tmp_path / "cut", devices=2, stop_at=2) == "stopped 2"
    assert run_script(tmp_path / "cut", devices=2, resume=True) == "finished 6"
    for name in ("last.safetensors", "best.safetensors", "best.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert len(read_log(tmp_path / "whole")) == 2


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_the_same_batches(tmp_path: Path) -> None:
    run_script(tmp_path / "one", devices=1)
    run_script(tmp_path / "two", devices=2)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    # dropout and the masked means differ between the two, but not the path of training
    for name in one:
        assert torch.allclose(one[name], two[name], atol=0.05), name


def test_more_gpus_than_there_are_is_refused() -> None:
    too_many = torch.cuda.device_count() + 1
    with pytest.raises(InputError, match=f"{too_many} GPUs asked for"):
        start_fabric(accelerator="cuda", devices=too_many, precision="32-true")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="precision 'half' cannot be used"):
        start_fabric(accelerator="cpu", precision="half")


def test_no_device_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        start_fabric(devices=0, precision="32-true")
