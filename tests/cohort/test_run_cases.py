"""One task per case, here and in workers: the same outcomes, and no failure spreads."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cohort_fakes import Work, refuse_run, refuse_setup

from samcancer.cohort.executor import IN_PROCESS, CaseWork, Executor, no_state
from samcancer.cohort.run import run_cases
from samcancer.errors import InputError

pytestmark = pytest.mark.usefixtures("_imported_once")

ITEMS = {f"case_{number}": number for number in range(6)}

TWO = Executor(workers=2)

PATIENCE_S = 15.0
"""Less than Dask takes to close a client that never had an address."""

EVERYWHERE = pytest.mark.parametrize("executor", [IN_PROCESS, TWO], ids=["here", "workers"])


def outcomes(work: Work, items: dict[str, int], executor: Executor) -> dict[str, int | str]:
    """Return case id -> result, or what is wrong."""
    return {
        o.case_id: o.value() if o.error is None else str(o.error)
        for o in run_cases(work.work(), items, executor=executor)
    }


@EVERYWHERE
def test_every_case_has_an_outcome_and_its_progress_and_logs_come_through(
    executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[str] = []
    steps: list[int] = []
    items = {**ITEMS, "bad": -1}
    with caplog.at_level(logging.INFO):
        found = {
            o.case_id: o.error or o.result
            for o in run_cases(
                Work(tmp_path).work(),
                items,
                executor=executor,
                on_case=begun.append,
                on_steps=steps.append,
            )
        }
    assert str(found.pop("bad")) == "bad.nii.gz: -1 is negative. Add more."
    assert found == {name: 100 + number for name, number in ITEMS.items()}
    assert sorted(begun) == sorted(items)
    assert sum(steps) == sum(items.values())
    assert "case_5 adds 5" in caplog.text


@EVERYWHERE
def test_a_process_loads_once_for_all_its_cases(executor: Executor, tmp_path: Path) -> None:
    outcomes(Work(tmp_path), ITEMS, executor)
    loads = [path.name.split("-")[1] for path in tmp_path.glob("load-*")]
    assert 1 <= len(loads) <= executor.workers
    assert len(set(loads)) == len(loads)


def test_a_case_whose_worker_is_killed_is_done_by_another(tmp_path: Path) -> None:
    found = outcomes(Work(tmp_path, killed=("case_1", "case_4")), ITEMS, TWO)
    assert found == {name: 100 + number for name, number in ITEMS.items()}


def test_a_case_that_kills_every_worker_is_given_up_and_the_others_are_done(
    tmp_path: Path,
) -> None:
    executor = Executor(workers=2, allowed_failures=1)
    found = outcomes(Work(tmp_path, deadly=("case_0",)), {"case_0": 0, "other": 7}, executor)
    assert found["other"] == 107
    assert "its worker process died 2 times, most likely for lack of memory" in str(found["case_0"])


def test_workers_of_this_machine_listen_on_the_loopback_device_alone(tmp_path: Path) -> None:
    outcomes = run_cases(Work(tmp_path).work(), ITEMS, executor=TWO)
    next(outcomes)
    process = psutil.Process()
    listening = {
        (connection.laddr.ip, who.pid)
        for who in (process, *process.children(recursive=True))
        for connection in who.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip for ip, _ in listening} == {"127.0.0.1"}
    assert len({pid for _, pid in listening}) == 3
    assert len(list(outcomes)) == len(ITEMS) - 1


@EVERYWHERE
def test_a_setup_that_fails_ends_the_run(executor: Executor) -> None:
    work = CaseWork(stage="add", setup=refuse_setup, do=refuse_run)
    with pytest.raises(InputError, match=r"runs: no such model\. Train one\."):
        list(run_cases(work, ITEMS, executor=executor))


@EVERYWHERE
def test_a_case_may_find_that_the_run_is_at_fault(executor: Executor) -> None:
    work = CaseWork(stage="add", setup=no_state, do=refuse_run)
    with pytest.raises(InputError, match="the teacher knows the patient"):
        list(run_cases(work, ITEMS, executor=executor))


def test_no_case_needs_no_worker(tmp_path: Path) -> None:
    assert list(run_cases(Work(tmp_path).work(), {}, executor=TWO)) == []


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://node7", "ftp://a:1"])
def test_a_scheduler_that_is_not_there_is_named_at_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcancer.cohort.dask_run._CONNECT_S", 0.5)
    began = time.monotonic()
    with pytest.raises(InputError, match=f"--scheduler {address}: no Dask scheduler answers"):
        outcomes(Work(tmp_path), ITEMS, Executor(scheduler=address))
    gc.collect()  # a client that was made closes now
    assert time.monotonic() - began < PATIENCE_S


def test_one_process_imports_nothing_of_dask() -> None:
    script = """
import sys
from samcancer.cohort.executor import IN_PROCESS, CaseWork, no_state
from samcancer.cohort.run import run_cases
work = CaseWork(stage="add", setup=no_state, do=lambda state, case_id, item, tell: item)
assert [o.result for o in run_cases(work, {"a": 1, "b": 2}, executor=IN_PROCESS)] == [1, 2]
assert not {"dask", "distributed"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "--workers must be at least 1, got 0"),
        ({"allowed_failures": -1}, "--allowed-failures must be 0 or more, got -1"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "--workers 2 is for this machine alone"),
        ({"scheduler": "tcp://a:1", "slurm": Path("a")}, "--scheduler and --slurm exclude"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Executor(**settings)  # type: ignore[arg-type]  # a table of arguments
