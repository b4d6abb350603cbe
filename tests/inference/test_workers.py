"""Several processes on one output folder: the same results, and no failure spreads."""

from __future__ import annotations

import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from inference_fakes import WriteScan, bright_box, make_ensemble

from samcancer.cohort.executor import Executor
from samcancer.commands import run_verb
from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX, folder_lock
from samcancer.inference.batch import BatchResult, find_scans, segment_scans
from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.workers import largest_first, segment_in_workers

pytestmark = pytest.mark.usefixtures("_imported_once")

CASES = 5


@pytest.fixture
def scans(write_scan: WriteScan) -> Path:
    for number in range(CASES):
        volume = bright_box(4 + number, level_hu=300 + 50 * number)
        folder = write_scan(f"scans/case_{number}.mha", volume).parent
    return folder


def refuse() -> Ensemble:
    raise InputError("no such model", path="runs", mend="train one")


def kill_the_second(mark: Path) -> Ensemble:
    """Load the networks, but kill the worker that comes second to do so."""
    try:
        mark.mkdir()
    except FileExistsError:
        os.kill(os.getpid(), signal.SIGKILL)
    return make_ensemble()


def run(folder: Path, output: Path, **options: Any) -> BatchResult:
    settings = {
        "executor": Executor(workers=2),
        "load": make_ensemble,
        "classes": make_ensemble().classes,
        "options": InferenceOptions(),
        **options,
    }
    return segment_in_workers(find_scans([folder]), output, **settings)


def masks(output: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in output.iterdir() if p.suffix in (".mha", ".csv")}


def test_two_workers_write_what_one_process_writes(scans: Path, tmp_path: Path) -> None:
    alone = segment_scans(
        find_scans([scans]),
        tmp_path / "alone",
        ensemble=make_ensemble(),
        options=InferenceOptions(),
    )
    result = run(scans, tmp_path / "shared")
    assert result == alone
    assert len(masks(tmp_path / "shared")) == 2 * CASES
    assert masks(tmp_path / "shared") == masks(tmp_path / "alone")


def test_progress_failures_and_logs_of_workers_reach_the_parent(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scans / "case_1.mha").write_bytes(b"not a scan")
    begun: list[str] = []
    slices: list[int] = []
    with caplog.at_level(logging.INFO):
        result = run(scans, tmp_path / "out", on_case=begun.append, on_slices=slices.append)
    assert sorted(begun) == [f"case_{number}" for number in range(CASES)]
    assert sum(slices) == sum(4 + number for number in range(CASES) if number != 1)
    assert result.finished == ["case_0", "case_2", "case_3", "case_4"]
    assert list(result.failures) == ["case_1"]
    assert "case_1 failed" in caplog.text
    assert "case_2: 6 slices of 30 x 40" in caplog.text


def test_finished_cases_are_skipped(scans: Path, tmp_path: Path) -> None:
    run(scans, tmp_path / "out")
    (tmp_path / "out" / "case_3.json").unlink()
    result = run(scans, tmp_path / "out", skip_finished=True)
    assert result.skipped == ["case_0", "case_1", "case_2", "case_4"]
    assert result.finished == ["case_3"]


def test_a_worker_that_dies_costs_only_a_retry(scans: Path, tmp_path: Path) -> None:
    alone = segment_scans(
        find_scans([scans]),
        tmp_path / "alone",
        ensemble=make_ensemble(),
        options=InferenceOptions(),
    )
    result = run(scans, tmp_path / "out", load=partial(kill_the_second, tmp_path / "mark"))
    assert result == alone
    assert masks(tmp_path / "out") == masks(tmp_path / "alone")


def test_a_case_under_which_every_worker_dies_is_named(scans: Path, tmp_path: Path) -> None:
    result = run(
        scans,
        tmp_path / "out",
        executor=Executor(workers=2, allowed_failures=0),
        load=partial(kill_the_second, tmp_path / "mark"),
    )
    assert result.failures
    assert sorted([*result.finished, *result.failures]) == sorted(find_scans([scans]))
    for case_id, message in result.failures.items():
        assert message.startswith(f"{case_id}.mha: its worker process died 1 times")


def test_a_model_that_cannot_be_loaded_is_one_error(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs: no such model\. Train one\."):
        run(scans, tmp_path / "out", load=refuse)


def test_the_parent_holds_the_lock(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / f"{TEMPORARY_PREFIX}1-case_0.mha").parent.mkdir()
    (out / f"{TEMPORARY_PREFIX}1-case_0.mha").write_bytes(b"half")
    with (
        folder_lock(out, purpose="infer-volume"),
        pytest.raises(InputError, match=rf"is being written by pid {os.getpid()}"),
    ):
        run(scans, out)
    run(scans, out)
    assert not list(out.glob(f"{TEMPORARY_PREFIX}*"))


def test_large_scans_begin_first_and_a_folder_counts_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    for z in range(3):
        (tmp_path / "series" / f"{z}.dcm").write_bytes(bytes(50))
    (tmp_path / "scan.mha").write_bytes(bytes(100))
    (tmp_path / "other.mha").write_bytes(bytes(160))
    scans = {path.stem: path for path in sorted(tmp_path.iterdir())}
    assert largest_first(scans) == ["other", "series", "scan"]


def test_workers_are_refused_on_a_gpu(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    words = ["--input", str(scans), "--output", str(tmp_path / "out"), "--model", "run", "--quiet"]
    assert run_verb("infer-volume", [*words, "--workers", "2"]) == 2
    assert "--workers 2 is for a CPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
