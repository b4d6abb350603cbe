from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallNet, make_job, small_config, small_net
from lightning.fabric import Fabric
from memory_store import partly_labelled_store
from safetensors.torch import load_file

from samcancer.config import Config
from samcancer.errors import InputError
from samcancer.modeling import NetOutput
from samcancer.training.epoch_log import read_log
from samcancer.training.loop import TrainResult, train
from samcancer.training.resume import read_resume

CHECKPOINTS = ("best.safetensors", "best.json", "last.safetensors", "last.json")

TIMES = ("seconds", "stacks_per_s", "data_wait_share", "elapsed_s", "validation_seconds")


def run(folder: Path, fabric: Fabric, config: Config, **options: Any) -> TrainResult:
    folder.mkdir(exist_ok=True)
    model = options.pop("model", None) or small_net()
    return train(model, make_job(folder, config), fabric=fabric, show_progress=False, **options)


def timeless_log(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_log(folder)]


def require_equal_runs(a: Path, b: Path) -> None:
    for name in CHECKPOINTS:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert timeless_log(a) == timeless_log(b)
    left, right = (read_resume(folder)["optimizer"]["state"] for folder in (a, b))
    for index in left:
        for key in left[index]:
            assert torch.equal(left[index][key], right[index][key])


def test_training_leaves_checkpoints_a_line_per_epoch_and_tensorboard(
    tmp_path: Path, fabric: Fabric
) -> None:
    result = run(tmp_path / "run", fabric, small_config())
    assert (result.outcome, result.epochs, result.steps) == ("finished", 6, 18)
    lines = read_log(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["validation"] is not None for line in lines] == [False, True] * 3
    assert lines[0]["stacks"] == 24  # 12 samples of 2 target slices
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    for name in CHECKPOINTS:
        assert (tmp_path / "run" / name).exists()


@pytest.mark.figure("resume")
def test_three_and_three_epochs_equal_six_bit_for_bit(tmp_path: Path, fabric: Fabric) -> None:
    run(tmp_path / "six", fabric, small_config())
    first = run(tmp_path / "halves", fabric, small_config(), stop_after_epochs=3)
    assert (first.outcome, first.epochs) == ("stopped", 3)
    # a fresh network with other weights: everything must come from the state
    torch.manual_seed(99)
    second = run(tmp_path / "halves", fabric, small_config(), model=SmallNet(), resume=True)
    assert (second.outcome, second.epochs) == ("finished", 6)
    require_equal_runs(tmp_path / "six", tmp_path / "halves")
    weights = [load_file(tmp_path / name / "last.safetensors") for name in ("six", "halves")]
    assert max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0]) == 0


class StoppingNet(SmallNet):
    """Sends its own process a signal in the given forward pass of training."""

    def __init__(self, at_call: int, number: signal.Signals) -> None:
        super().__init__()
        self._calls, self._at_call, self._number = 0, at_call, number

    def forward(self, *inputs: Any) -> NetOutput:
        self._calls += self.training
        if self.training and self._calls == self._at_call:
            os.kill(os.getpid(), self._number)
        return super().forward(*inputs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_call", [1, 5, 9])
def test_a_run_that_was_signalled_mid_epoch_resumes_to_the_same_bytes(
    at_call: int, number: signal.Signals, tmp_path: Path, fabric: Fabric
) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored in a background job of a shell
    run(tmp_path / "whole", fabric, small_config(epochs=4))
    net = StoppingNet(at_call, number)
    net.load_state_dict(small_net().state_dict())
    stopped = run(tmp_path / "cut", fabric, small_config(epochs=4), model=net)
    assert stopped.outcome == "stopped"
    assert stopped.steps == at_call  # the step at hand was finished
    assert signal.getsignal(signal.SIGINT) is before
    result = run(tmp_path / "cut", fabric, small_config(epochs=4), resume=True)
    assert (result.outcome, result.steps) == ("finished", 12)
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, fabric: Fabric) -> None:
    run(tmp_path / "run", fabric, small_config(epochs=2))
    before = {name: (tmp_path / "run" / name).read_bytes() for name in CHECKPOINTS}
    result = run(tmp_path / "run", fabric, small_config(epochs=2), resume=True)
    assert (result.outcome, result.epochs) == ("finished", 2)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in CHECKPOINTS}


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path: Path, fabric: Fabric) -> None:
    run(tmp_path / "run", fabric, small_config(epochs=1))
    with pytest.raises(InputError, match=r"already holds a run.*--resume"):
        run(tmp_path / "run", fabric, small_config(epochs=1))


def test_resume_without_a_state_is_refused(tmp_path: Path, fabric: Fabric) -> None:
    with pytest.raises(InputError, match="no state to resume from"):
        run(tmp_path / "run", fabric, small_config(), resume=True)


def test_a_run_that_ended_in_its_first_epoch_resumes_to_the_same_bytes(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit("killed")

    run(tmp_path / "whole", fabric, small_config(epochs=2))
    for moment, begun in (("Stepper.compute", False), ("EpochLog.write", True)):
        with monkeypatch.context() as patch:
            patch.setattr(f"samcancer.training.loop.{moment}", killed)
            with pytest.raises(SystemExit, match="killed"):
                run(tmp_path / "cut", fabric, small_config(epochs=2), resume=begun)
    run(tmp_path / "cut", fabric, small_config(epochs=2), resume=True)
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_resume_with_another_configuration_is_refused(tmp_path: Path, fabric: Fabric) -> None:
    run(tmp_path / "run", fabric, small_config(), stop_after_epochs=1)
    with pytest.raises(InputError, match="written with another configuration"):
        run(tmp_path / "run", fabric, small_config(learning_rate=1e-4), resume=True)


def test_the_log_of_epochs_that_are_repeated_is_replaced(tmp_path: Path, fabric: Fabric) -> None:
    folder = tmp_path / "run"
    run(folder, fabric, small_config(), stop_after_epochs=2)
    with (folder / "log.jsonl").open("a") as stream:  # killed after the line, before resume.pt
        stream.write(json.dumps({"epoch": 3, "loss": 123.0}) + '\n{"epo')
    run(folder, fabric, small_config(), resume=True)
    assert [line["epoch"] for line in read_log(folder)] == [1, 2, 3, 4, 5, 6]
    assert read_log(folder)[2]["loss"] < 100


class NanNet(SmallNet):
    """Gives NaN from the given forward pass of training on."""

    def __init__(self, from_call: int) -> None:
        super().__init__()
        self._calls, self._from_call = 0, from_call

    def forward(self, *inputs: Any) -> NetOutput:
        output = super().forward(*inputs)
        self._calls += self.training
        if self._calls < self._from_call:
            return output
        return NetOutput(output.mask_logits * float("nan"), output.presence_logits)


@pytest.mark.figure("halving", "NaN loss")
def test_a_nan_loss_stops_naming_cases_and_leaves_every_file_as_it_was(
    tmp_path: Path, fabric: Fabric
) -> None:
    folder = tmp_path / "run"
    run(folder, fabric, small_config(), stop_after_epochs=3)
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "log.jsonl"]
    before = {path.name: path.read_bytes() for path in files}
    log_before = read_log(folder)
    with pytest.raises(InputError, match=r"not finite at epoch 4, step 11, .* cases .*lesion_1"):
        run(folder, fabric, small_config(), model=NanNet(2), resume=True)
    assert {path.name: path.read_bytes() for path in files} == before
    assert read_log(folder) == log_before
    result = run(folder, fabric, small_config(), resume=True)
    assert result.outcome == "finished"


def test_an_infinite_gradient_stops_before_the_step(tmp_path: Path, fabric: Fabric) -> None:
    class InfiniteGradientNet(SmallNet):
        def forward(self, *inputs: Any) -> NetOutput:
            output = super().forward(*inputs)
            # sqrt has an infinite slope at 0 and a finite value
            zero = (output.mask_logits * 0).abs().sqrt()
            return NetOutput(output.mask_logits + zero, output.presence_logits)

    model = InfiniteGradientNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="not finite at epoch 1, step 1"):
        run(tmp_path / "run", fabric, small_config(), model=model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_time_budget_ends_the_run_with_a_validated_checkpoint(
    tmp_path: Path, fabric: Fabric
) -> None:
    config = small_config(epochs=100000, time_budget_s=0.5, validate_every=100000)
    result = run(tmp_path / "run", fabric, config)
    assert result.outcome == "finished"
    assert result.best_score is not None
    last = read_log(tmp_path / "run")[-1]
    assert last["learning_rate"] < 0.1 * config.train.learning_rate
    assert 0.5 <= last["elapsed_s"] < 5


def test_without_validation_best_is_last_and_thresholds_are_one_half(
    tmp_path: Path, fabric: Fabric
) -> None:
    result = run(tmp_path / "run", fabric, small_config(epochs=2, validate_every=None))
    assert (result.best_score, result.best_epoch) == (None, 2)
    best, last = (
        json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("best", "last")
    )
    assert best == last
    assert set(best["presence_thresholds"].values()) == {0.5}


def test_frozen_parameters_do_not_change(tmp_path: Path, fabric: Fabric) -> None:
    model = small_net()
    run(tmp_path / "run", fabric, small_config(), model=model)
    assert torch.equal(model.frozen.weight, small_net().frozen.weight)
    assert not torch.equal(model.mix.weight, small_net().mix.weight)


def test_workers_make_the_same_run_as_the_training_process(tmp_path: Path, fabric: Fabric) -> None:
    config = small_config(epochs=2)
    with_workers = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=2))
    run(tmp_path / "none", fabric, config)
    run(tmp_path / "two", fabric, with_workers)
    assert (tmp_path / "none" / "last.safetensors").read_bytes() == (
        tmp_path / "two" / "last.safetensors"
    ).read_bytes()
    assert threading.active_count() >= 1


def test_a_network_learns_bright_blocks(tmp_path: Path, fabric: Fabric) -> None:
    store = partly_labelled_store()
    config = small_config(epochs=80, learning_rate=2e-2, samples_per_epoch=16, validate_every=None)
    run(tmp_path / "run", fabric, config)
    lines = read_log(tmp_path / "run")
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["train_dice"]["liver_lesion"] > 2 * lines[0]["train_dice"]["liver_lesion"]
    assert np.isfinite([line["loss"] for line in lines]).all()
    assert store.class_names == tuple(lines[-1]["train_dice"])
