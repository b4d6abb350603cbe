"""Training in several processes over gloo: the same steps, the same files, a clean end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from real_store import SIZE, make_store
from safetensors.torch import load_file

from samcancer.errors import InputError
from samcancer.training.epoch_log import read_log
from samcancer.training.processes import run_processes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPT = str(HERE / "ddp_script.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]

_PATIENCE_S = 300
"""For several processes of a loaded machine."""


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(HERE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )


STEPS = ["net=real", "samples=15", "batch=4", "epochs=3", "rate=0.0005"]
"""Three epochs of 4, 4, 4 and 3 samples: of the last batch one of four processes has none. The
network is ours with batch norm, prompts, false presence, and augmented samples; Adam at the
recipe's rate."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("runs")
    done = run([sys.executable, str(HERE / "forked_ranks.py"), str(folder), "1,2,4", *STEPS])
    assert done.returncode == 0, done.stderr
    return folder


def losses(folder: Path) -> list[float]:
    found: list[float] = json.loads((folder / "losses.json").read_text())
    assert len(found) == 12
    return found


@pytest.mark.parametrize("processes", ["2", "4"])
def test_the_loss_curve_does_not_depend_on_the_number_of_processes(
    processes: str, runs: Path
) -> None:
    # measured: 3e-6 in a batch of three samples, 1e-6 in most others
    assert losses(runs / processes) == pytest.approx(losses(runs / "1"), rel=1e-5)


@pytest.mark.parametrize("processes", ["2", "4"])
def test_validation_and_counts_do_not_depend_on_the_number_of_processes(
    processes: str, runs: Path
) -> None:
    for one, several in zip(read_log(runs / "1"), read_log(runs / processes), strict=True):
        for name in ("epoch", "step", "steps", "stacks", "learning_rate", "validation"):
            assert several[name] == one[name], name
        assert several["train_dice"] == pytest.approx(one["train_dice"], rel=1e-4)


@pytest.mark.parametrize("processes", ["2", "4"])
def test_only_the_first_process_writes(processes: str, runs: Path) -> None:
    folder = runs / processes
    names = {path.name for path in folder.iterdir()}
    checkpoints = {f"{name}.{end}" for name in ("best", "last") for end in ("json", "safetensors")}
    assert names == checkpoints | {"log.jsonl", "resume.pt", "tensorboard", "losses.json"}
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert [line["epoch"] for line in read_log(folder)] == [1, 2, 3]


def test_checkpoints_of_all_numbers_of_processes_have_the_same_tensors(runs: Path) -> None:
    one, four = (load_file(runs / name / "last.safetensors") for name in ("1", "4"))
    assert one.keys() == four.keys()
    for name in one:
        assert one[name].shape == four[name].shape


def start(folder: Path, count: int, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        return run_processes([sys.executable, SCRIPT, str(folder), *options], count)


def require_equal(one: Path, other: Path) -> None:
    for name in ("last.safetensors", "best.safetensors", "best.json", "last.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    lines = [[(x["epoch"], x["step"], x["loss"]) for x in read_log(f)] for f in (one, other)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_run_stopped_in_an_epoch_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    assert start(tmp_path / "whole", 2) == 0
    assert start(tmp_path / "cut", 2, "stop=1:2") == 130
    assert start(tmp_path / "cut", 2, "resume=1") == 0
    require_equal(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_job_and_resume_goes_on_to_the_same_bytes(
    lost: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path / "whole", 2) == 0
    capfd.readouterr()
    started = time.monotonic()
    with pytest.raises(InputError, match=f"process {lost} of 2 was ended by SIGKILL"):
        start(tmp_path / "cut", 2, f"die={lost}:5")  # the second step of the second epoch
    assert time.monotonic() - started < _PATIENCE_S / 2
    assert "error" not in capfd.readouterr().err  # the survivor leaves the word to the watcher
    assert [line["epoch"] for line in read_log(tmp_path / "cut")] == [1]
    assert start(tmp_path / "cut", 2, "resume=1") == 0
    require_equal(tmp_path / "whole", tmp_path / "cut")
    assert list((tmp_path / "cut").glob(".tmp-*")) == []


@pytest.mark.slow
def test_going_on_with_another_number_of_processes_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, 2, "stop=0:2") == 130
    assert start(tmp_path, 1, "resume=1") == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert "written by 2 processes and 1 were started" in errors[0]


QUICK = [
    *("--set", f"model.image_size={SIZE}", "--set", "model.cnn_width=4", "--set", "folds=2"),
    *("--set", "train.samples_per_epoch=4", "--set", "train.batch_size=2"),
    *("--workers", "0", "--accelerator", "cpu", "--quiet", "--epochs", "2"),
]


def training(folder: Path, verb: str = "train_fold") -> list[str]:
    more = ["--fold", "0"] if verb == "train_fold" else ["--no-pseudo"]
    paths = ["--data", str(folder / "store"), "--output", str(folder / "runs")]
    return [str(ROOT / "scripts" / f"{verb}.py"), *paths, *QUICK, *more]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "run_name"), [("train_fold", "fold_0"), ("train_final", "final")])
def test_torchrun_and_devices_train_to_the_same_bytes(
    verb: str, run_name: str, tmp_path: Path
) -> None:
    make_store(tmp_path / "a" / "store")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    by_torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]
    for command in (
        [*by_torchrun, *training(tmp_path / "a", verb)],
        [sys.executable, *training(tmp_path / "b", verb), "--devices", "2"],
    ):
        done = run(command)
        assert done.returncode == 0, done.stderr
    require_equal(*(tmp_path / name / "runs" / run_name for name in "ab"))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [True, False], ids=["devices", "torchrun"])
def test_what_every_process_finds_wrong_is_one_line(devices: bool, tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    wrong = [*training(tmp_path), "--set", "train.batch_size=3"]
    by_torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *wrong]
    done = run([sys.executable, *wrong, "--devices", "2"] if devices else by_torchrun)
    assert done.returncode == (2 if devices else 1)
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, done.stderr
    assert "train.batch_size 3 cannot be shared by 2 processes" in errors[0]


@pytest.mark.slow
def test_under_torchrun_a_killed_process_ends_the_job_with_its_rank_and_signal(
    tmp_path: Path,
) -> None:
    started = time.monotonic()
    options = [str(tmp_path), "die=1:5"]
    done = run([*TORCHRUN, "--standalone", "--nproc-per-node", "2", SCRIPT, *options])
    assert done.returncode == 1
    assert time.monotonic() - started < _PATIENCE_S / 2
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert "rank      : 1 " in done.stderr
    assert [line["epoch"] for line in read_log(tmp_path)] == [1]


def namespaces_are_missing() -> str | None:
    """Return why two network namespaces cannot be had; None where they can."""
    if shutil.which("ip") is None:
        return "there is no ip command (iproute2)"
    done = subprocess.run(
        ["ip", "netns", "add", "samcancer-probe"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"network namespaces are not allowed here ({done.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", "samcancer-probe"], check=True)
    return None


@pytest.fixture
def hosts() -> Any:
    """Two network namespaces joined by a cable, 10.77.0.1 and 10.77.0.2: two hosts."""
    reason = namespaces_are_missing()
    if reason is not None:
        pytest.skip(reason)
    names = [f"samcancer-{os.getpid()}-{i}" for i in (1, 2)]
    ends = [f"sc{os.getpid() % 100000}e{i}" for i in (1, 2)]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        cable = ["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]
        subprocess.run(cable, check=True)
        for i, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            inside = ["ip", "-n", name]
            subprocess.run(["ip", "link", "set", end, "netns", name], check=True)
            subprocess.run([*inside, "addr", "add", f"10.77.0.{i}/24", "dev", end], check=True)
            subprocess.run([*inside, "link", "set", end, "up"], check=True)
            subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.mark.slow
def test_two_hosts_train_to_the_bytes_of_one_host_with_two_processes(
    hosts: list[tuple[str, str]], tmp_path: Path
) -> None:
    make_store(tmp_path / "one" / "store")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    started = []
    for rank, (name, end) in enumerate(hosts):
        node = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
        meeting = ["--master-addr", "10.77.0.1", "--master-port", "29400"]
        command = [*TORCHRUN, *node, *meeting, *training(tmp_path / "two")]
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *command],
                env=environment(GLOO_SOCKET_IFNAME=end),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate(timeout=_PATIENCE_S)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    done = run([sys.executable, *training(tmp_path / "one"), "--devices", "2"])
    assert done.returncode == 0, done.stderr
    require_equal(*(tmp_path / name / "runs" / "fold_0" for name in ("one", "two")))
