from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_store import SIZE, make_store

from samcancer.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, run_verb

QUICK = [
    *("--set", f"model.image_size={SIZE}", "--set", "model.cnn_width=4", "--set", "folds=2"),
    *("--set", "train.samples_per_epoch=4", "--set", "train.batch_size=2"),
    *("--workers", "0", "--accelerator", "cpu", "--quiet"),
]


_PATIENCE_S = 300
"""For one process of a loaded machine."""


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--data", str(folder / "store"), "--output", str(folder / "runs"), *QUICK, *more]


def test_the_three_commands_go_from_store_to_final_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "store")
    for fold in ("0", "1"):
        assert run_verb("train-fold", arguments(tmp_path, "--fold", fold, "--epochs", "1")) == 0
    runs = ["--data", str(tmp_path / "store"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    assert run_verb("pseudo-label", [*runs, "--quiet"]) == EXIT_OK
    assert "Added by pseudo labels" in capsys.readouterr().out
    assert run_verb("train-final", arguments(tmp_path, "--epochs", "1")) == EXIT_OK
    assert (tmp_path / "runs" / "final" / "best.safetensors").exists()


def test_a_run_in_two_calls_leaves_with_130_and_then_0(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    training = arguments(tmp_path, "--fold", "0", "--epochs", "2")
    assert run_verb("train-fold", [*training, "--stop-after-epochs", "1"]) == EXIT_INTERRUPTED
    assert run_verb("train-fold", training) == EXIT_BAD_INPUT
    assert run_verb("train-fold", [*training, "--resume"]) == EXIT_OK


def test_a_later_fold_inherits_the_configuration_of_the_first(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    run_verb("train-fold", arguments(tmp_path, "--fold", "0", "--epochs", "1"))
    bare = ["--data", str(tmp_path / "store"), "--output", str(tmp_path / "runs"), "--quiet"]
    assert run_verb("train-fold", [*bare, "--fold", "1", "--accelerator", "cpu"]) == EXIT_OK


@pytest.mark.parametrize(
    ("verb", "more", "message"),
    [
        ("train-fold", ["--fold", "0", "--set", "train.epoch=1"], "--set takes"),
        ("train-fold", ["--fold", "0", "--config", "absent.yaml"], "absent.yaml: no such file"),
        ("train-fold", ["--fold", "9"], "--fold must be 0 to 1"),
        ("train-fold", ["--fold", "0", "--resume"], "no state to resume from"),
        ("train-final", [], "there are no pseudo labels"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    verb: str, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "store")
    assert run_verb(verb, arguments(tmp_path, *more)) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error


def command(folder: Path, *more: str) -> list[str]:
    script = Path(__file__).parents[2] / "scripts" / "train_fold.py"
    return [sys.executable, str(script), *arguments(folder, *more)]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def finish(folder: Path, *more: str) -> None:
    done = subprocess.run(
        command(folder, *more),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def interrupt(folder: Path, number: signal.Signals, *more: str) -> tuple[int, str]:
    """Start a run, signal its process group once it has saved a state, return how it left."""
    with subprocess.Popen(
        command(folder, *more),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        saved = folder / "runs" / "fold_0" / "resume.pt"
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        deadline = time.monotonic() + _PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            if saved.exists() and saved.stat().st_mtime_ns != before:
                break
            time.sleep(0.02)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=_PATIENCE_S)
    return process.returncode, error


@pytest.mark.slow
def test_ctrl_c_to_the_whole_process_group_saves_and_the_run_resumes_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    for name in ("whole", "cut"):
        make_store(tmp_path / name / "store")
    training = ["--fold", "0", "--epochs", "30", "--workers", "1"]
    finish(tmp_path / "whole", *training)
    status, error = interrupt(tmp_path / "cut", signal.SIGINT, *training)
    assert status == EXIT_INTERRUPTED, error
    assert "--resume goes on" in " ".join(error.split())
    assert "Traceback" not in error
    finish(tmp_path / "cut", *training, "--resume")
    require_equal_weights(tmp_path)


@pytest.mark.slow
def test_no_loader_process_outlives_a_killed_training_process(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    training = command(tmp_path, "--fold", "0", "--epochs", "100000", "--workers", "2")
    with subprocess.Popen(training, env=environment(), start_new_session=True) as process:
        saved = tmp_path / "runs" / "fold_0" / "resume.pt"
        deadline = time.monotonic() + _PATIENCE_S
        while not saved.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()  # this process alone, so that its children have to notice
    assert group_is_gone(process.pid, within_s=60)


def group_is_gone(group: int, *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    os.killpg(group, signal.SIGKILL)
    return False


def require_equal_weights(folder: Path) -> None:
    for name in ("last.safetensors", "best.safetensors", "best.json", "last.json"):
        a, b = (folder / run / "runs" / "fold_0" / name for run in ("whole", "cut"))
        assert a.read_bytes() == b.read_bytes(), name
