"""Full disks, kills, second writers, dead workers and full GPUs, through the real commands."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
import torch
from catalogue import provokes
from harness import (
    Command,
    contents,
    good_scan,
    infer,
    names_in,
    prepare,
    raw_cases,
    require_one_line,
    require_store,
    require_whole,
    sha256,
)
from inference_fakes import bright_box, make_ensemble
from raw_data import add_case
from real_store import make_store
from test_catalogue_training import QUICK, label, train_fold
from volume_fakes import save_by_itk

from samcancer import files
from samcancer.files import LOCK_NAME, TEMPORARY_PREFIX
from samcancer.volume_io import itk_formats, nifti

ROOT = Path(__file__).resolve().parents[2]

PATIENCE_S = 120
"""For one process of a loaded machine."""

HOLD = """
import sys, time
from pathlib import Path
from samcancer.files import folder_lock
with folder_lock(Path(sys.argv[1]), purpose="another run"):
    print("held", flush=True)
    time.sleep(600)
"""


def script(name: str, *words: object) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, words)]


def start(words: list[str], **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, text=True, **options)  # type: ignore[call-overload,no-any-return]


def kill_once(words: list[str], ready: Callable[[], bool]) -> None:
    """Start a command and kill it, with all its processes, as soon as it is ready for that."""
    process = start(words, start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts processes that hold a folder's lock."""
    started = []

    def hold(folder: Path) -> subprocess.Popen[str]:
        process = start([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@provokes("two writers", "prepare-slices", "train-fold", "pseudo-label", "infer-volume")
def test_a_second_writer_names_the_pid_of_the_first_and_changes_nothing(
    tmp_path: Path,
    command: Command,
    model: Path,
    holder: Callable[[Path], subprocess.Popen[str]],
) -> None:
    scan, raw = good_scan(tmp_path / "s.nii.gz"), raw_cases(tmp_path, 1)
    make_store(tmp_path / "store")
    assert train_fold(command, tmp_path).status == 0
    shutil.copytree(tmp_path / "runs" / "fold_0", tmp_path / "runs" / "fold_1")
    calls = {
        tmp_path / "prepared": lambda: prepare(command, raw, tmp_path / "prepared"),
        tmp_path / "runs" / "fold_0": lambda: train_fold(command, tmp_path, "--resume"),
        tmp_path / "runs" / "pseudo_labels": lambda: label(command, tmp_path),
        tmp_path / "masks": lambda: infer(command, [scan], tmp_path / "masks", model),
    }
    for folder, call in calls.items():
        first = holder(folder)
        before = contents(tmp_path)
        outcome = call()
        assert outcome.status == 2
        fact = rf"is being written by pid {first.pid} \(another run\)"
        require_one_line(outcome.lines, folder, fact=fact, mend="wait for it or stop it")
        assert contents(tmp_path) == before


@provokes("two writers", "after a kill")
def test_the_lock_of_a_killed_process_is_stale_and_taken_over(
    tmp_path: Path,
    command: Command,
    model: Path,
    holder: Callable[[Path], subprocess.Popen[str]],
) -> None:
    scan, out = good_scan(tmp_path / "s.nii.gz"), tmp_path / "out"
    first = holder(out)
    assert infer(command, [scan], out, model).status == 2
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert f"pid {first.pid} " in (out / LOCK_NAME).read_text()  # it could not tidy up
    assert infer(command, [scan], out, model).status == 0
    require_whole(out, [scan])
    assert (out / LOCK_NAME).read_text() == ""


@provokes("disk full", "before")
def test_a_disk_with_too_little_room_is_refused_before_computing(
    tmp_path: Path, command: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, raw = good_scan(tmp_path / "s.nii.gz"), raw_cases(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=99)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(
        "samcancer.inference.scan.predict_volume", lambda *_, **__: pytest.fail("was computed")
    )
    out = tmp_path / "out"
    outcome = infer(command, [scan], out, model)
    assert outcome.status == 2
    fact = "needs 252 bytes and the disk has 99 free"
    require_one_line(outcome.lines, out, fact=fact, mend="free some space")
    assert names_in(out) == set()
    outcome = prepare(command, raw, tmp_path / "store")
    assert outcome.status == 2
    require_one_line(outcome.lines, tmp_path / "store", fact="99 free", mend="free some space")
    assert not list((tmp_path / "store").rglob(f"{TEMPORARY_PREFIX}*"))
    assert not list((tmp_path / "store" / "cases").iterdir())


@provokes("disk full", "while writing")
def test_a_disk_that_fills_up_is_one_line_and_the_old_mask_stays(
    tmp_path: Path, command: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [good_scan(tmp_path / "in" / f"{name}.nii.gz") for name in "abc"]
    out = tmp_path / "out"
    assert infer(command, scans, out, model).status == 0
    before = {path.name: sha256(path) for path in out.glob("b.*")}
    write = nifti.write_gzip

    def full(path: Path, parts: object) -> None:
        if path.name.endswith("-b.nii.gz"):
            path.write_bytes(b"half a mask")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(nifti, "write_gzip", full)
    outcome = infer(command, scans, out, model)
    assert outcome.status == 1
    path = out / "b.nii.gz"
    require_one_line(outcome.lines, path, fact="the disk is full", mend="free some space")
    assert {path.name: sha256(path) for path in out.glob("b.*")} == before
    require_whole(out, scans)


@provokes("disk full", "silently")
def test_a_writer_that_loses_voxels_in_silence_is_found_out(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble", lambda *_, **__: make_ensemble()
    )
    names = ("a.nii.gz", "b.mha", "c.nii.gz")
    scans = [save_by_itk(tmp_path / name, bright_box()) for name in names]
    write = itk_formats.write_itk

    def lossy(path: Path, values: np.ndarray, geometry: object) -> None:
        lost = values.copy()
        lost[len(lost) // 2 :] = 0
        write(path, lost, geometry)  # type: ignore[arg-type]

    monkeypatch.setattr(itk_formats, "write_itk", lossy)
    out = tmp_path / "out"
    outcome = infer(command, scans, out, Path("run"))
    assert outcome.status == 1
    fact = "reading back gave other voxels"
    require_one_line(outcome.lines, out / "b.mha", fact=fact, mend="try another disk")
    require_whole(out, [scans[0], scans[2]])


@provokes("SIGKILL", "prepare-slices")
def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path: Path, command: Command) -> None:
    raw, store = raw_noise(tmp_path), tmp_path / "store"
    words = script("prepare_slices", "--input", raw, "--output", store, "--size", 16)
    words += ["--workers", "2", "--quiet"]
    kill_once(words, lambda: any(store.glob("cases/*/*/[!.]*.h5")))
    done = {p.name: p.stat().st_mtime_ns for p in store.glob("cases/*/*/[!.]*.h5")}
    assert 0 < len(done) < 6
    assert prepare(command, raw, store).status == 0
    require_store(store, [f"case{number}" for number in range(6)])
    assert prepare(command, raw, tmp_path / "whole").status == 0
    assert contents(store) == contents(tmp_path / "whole")
    kept = {
        p.name for p in store.glob("cases/*/*/*.h5") if done.get(p.name) == p.stat().st_mtime_ns
    }
    assert len(kept) >= len(done) - 2  # but for what each worker had not told of yet


@provokes("SIGKILL", "infer-volume")
def test_a_killed_inference_goes_on_to_the_same_bytes(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scans = [good_scan(tmp_path / "in" / f"{n:02}.nii.gz", seed=n) for n in range(40)]
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = script("infer_volume", "--input", tmp_path / "in", "--output", out, "--model", model)
    words += ["--device", "cpu", "--quiet"]
    kill_once(words, lambda: len(list(out.glob("[!.]*.json"))) > 2)
    done = {p: p.stat().st_mtime_ns for p in out.glob("[!.]*.json")}
    assert 2 < len(done) < 40
    assert infer(command, scans, out, model, "--skip-finished").status == 0
    require_whole(out, scans)
    assert all(path.stat().st_mtime_ns == changed for path, changed in done.items())
    assert infer(command, scans, whole, model).status == 0
    for path in whole.glob("*[!n]"):  # reports (.json) hold times
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@provokes("SIGKILL", "train-fold")
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    make_store(tmp_path / "store")

    def fold(runs: Path, *more: str) -> list[str]:
        words = ["--data", tmp_path / "store", "--output", runs, *QUICK, "--fold", 0]
        return script("train_fold", *words, "--epochs", 12, *more)

    for words in (fold(tmp_path / "whole"),):
        assert start(words).wait(PATIENCE_S) == 0
    saved = tmp_path / "cut" / "fold_0" / "resume.pt"
    kill_once(fold(tmp_path / "cut"), saved.exists)
    assert start(fold(tmp_path / "cut", "--resume")).wait(PATIENCE_S) == 0
    for name in ("best.json", "best.safetensors", "last.json", "last.safetensors"):
        one, two = (tmp_path / runs / "fold_0" / name for runs in ("whole", "cut"))
        assert one.read_bytes() == two.read_bytes()
    assert not list((tmp_path / "cut").rglob(f"{TEMPORARY_PREFIX}*"))


def raw_noise(folder: Path) -> Path:
    """Write six cases that take a worker a while."""
    raw = folder / "Phantom_Liver"
    for number in range(6):
        hu = np.random.default_rng(number).integers(-1000, 1000, (30, 96, 96)).astype(np.int16)
        add_case(raw, f"case{number}", hu=hu, values=(hu > 900).astype(np.uint8))
    return raw


@provokes("worker death", "prepare-slices")
def test_a_dead_worker_of_the_preparation_costs_a_retry(tmp_path: Path) -> None:
    raw, store = raw_noise(tmp_path), tmp_path / "store"
    words = ["--input", raw, "--output", store, "--size", 16, "--workers", 2, "--quiet"]
    process = start(script("prepare_slices", *words), stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE_S
    while not any(store.glob("cases/*/*/[!.]*.h5")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert not list(store.rglob(f"{TEMPORARY_PREFIX}*"))
    require_store(store, [f"case{number}" for number in range(6)])


def workers_of(pid: int) -> list[int]:
    """Return the processes that a command's fork server has forked."""
    return [grandchild for child in children_of(pid) for grandchild in children_of(child)]


@pytest.mark.slow
@provokes("worker death", "train-fold")
def test_a_dead_loader_of_training_is_one_line_with_advice(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    words = ["--data", tmp_path / "store", "--output", tmp_path / "runs", *QUICK, "--fold", 0]
    process = start(
        script("train_fold", *words, "--epochs", 100000, "--workers", 1),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    epochs = tmp_path / "runs" / "fold_0" / "log.jsonl"
    deadline = time.monotonic() + PATIENCE_S
    while not (epochs.exists() and epochs.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (loader,) = workers_of(process.pid)
    os.kill(loader, signal.SIGKILL)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, told
    (line,) = told.splitlines()
    assert line.startswith("error: a data loading process died (")
    assert "Use fewer --workers" in line


def children_of(pid: int) -> list[int]:
    texts = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(word) for text in texts for word in text.split()]


class FullGpu(torch.nn.Module):
    """Stands for a network on a GPU that takes no more than two slices at once."""

    slice_context = 2

    def __init__(self, network: torch.nn.Module, error: Exception) -> None:
        super().__init__()
        self.network, self.error, self.failed = network, error, 0

    def forward(self, chunk: torch.Tensor, presence: torch.Tensor | None = None) -> object:
        if chunk.shape[1] > 2 + 4:
            self.failed += 1
            raise self.error
        return self.network(chunk, presence)


def full_gpu(monkeypatch: pytest.MonkeyPatch, error: Exception) -> FullGpu:
    ensemble = make_ensemble()
    network = FullGpu(ensemble.members[0].model, error)  # type: ignore[union-attr]
    member = dataclasses.replace(ensemble.members[0], model=network)  # type: ignore[type-var]
    crowded = dataclasses.replace(ensemble, members=(member,))
    monkeypatch.setattr("samcancer.inference.models.load_ensemble", lambda *_, **__: crowded)
    return network


@provokes("GPU memory", "halved")
def test_a_full_gpu_halves_the_batch_and_gives_the_same_mask(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = save_by_itk(tmp_path / "s.nii.gz", bright_box(12))
    with monkeypatch.context() as plain:
        plain.setattr("samcancer.inference.models.load_ensemble", lambda *_, **__: make_ensemble())
        assert infer(command, [scan], tmp_path / "plain", Path("run")).status == 0
    network = full_gpu(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."))
    assert infer(command, [scan], tmp_path / "full", Path("run")).status == 0
    assert network.failed == 2  # 8 slices, 4 slices, then 2
    assert sha256(tmp_path / "full" / "s.nii.gz") == sha256(tmp_path / "plain" / "s.nii.gz")
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "full" / "s.nii.gz"))).any()


@provokes("GPU memory", "other errors")
def test_no_other_error_is_taken_for_a_full_gpu(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = save_by_itk(tmp_path / "s.nii.gz", bright_box(12))
    network = full_gpu(monkeypatch, RuntimeError("CUDA error: device-side assert triggered"))
    outcome = infer(command, [scan], tmp_path / "out", Path("run"))
    assert (outcome.status, network.failed) == (2, 1)
    fact = r"unexpected RuntimeError \(CUDA error: device-side assert triggered\)"
    require_one_line(outcome.lines, scan, fact=fact, mend="--debug")
    assert names_in(tmp_path / "out") == set()
