from __future__ import annotations

import errno
import logging
from pathlib import Path

import numpy as np
import pytest
from serve_fakes import Client, Clock, MakeClient, Scripted, files_in, wait_until

from samcancer.errors import InputError


def test_a_scan_is_segmented_and_its_upload_removed(
    client: Client, segment: Scripted, folder: Path
) -> None:
    job_id = client.submit(b"voxels")
    done = client.wait_for(job_id, "done")
    assert segment.seen == [[("file-00000.nii.gz", b"voxels")]]
    assert [(r["name"], r["kind"], r["bytes"]) for r in done["results"]] == [
        ("scan.nii.gz", "mask", len(b"mask")),
        ("scan.html", "page", len(b"<p>page</p>")),
    ]
    assert files_in(folder) == ["scan.html", "scan.nii.gz"]


def test_one_scan_runs_and_the_others_know_their_place(client: Client, segment: Scripted) -> None:
    segment.go.clear()
    running, second, third = (client.submit() for _ in range(3))
    client.wait_for(running, "running")
    assert client.status(second) | {"id": ""} == {"id": "", "state": "waiting", "position": 1}
    assert client.status(third)["position"] == 2
    segment.go.set()
    client.wait_for(third, "done")
    assert len(segment.seen) == 3


def test_progress_tells_slices_and_the_seconds_that_they_leave(
    client: Client, segment: Scripted, clock: Clock
) -> None:
    segment.go.clear()
    job_id = client.submit()
    assert segment.begun.wait(10)
    clock.now += 3.0
    told = client.status(job_id)
    # 2 of 8 slices took 3 s, so the other 6 take 9 s.
    assert (told["slices_done"], told["slices_total"], told["seconds_left"]) == (2, 8, 9)
    assert told["stage"] == "segmenting"


def test_a_full_queue_refuses_the_next_scan_and_takes_it_later(
    make_client: MakeClient, segment: Scripted
) -> None:
    client = make_client(waiting=1)
    segment.go.clear()
    first, second = client.submit(), client.create()
    answer = client.ask("POST", "/api/jobs?files=1&bytes=4")
    assert answer.status_code == 503
    assert "Too many scans are waiting" in answer.json()["error"]
    assert client.ask("DELETE", f"/api/jobs/{second}").status_code == 204
    assert client.create()
    segment.go.set()
    client.wait_for(first, "done")


def test_a_scan_that_waits_can_be_taken_back(
    client: Client, segment: Scripted, folder: Path
) -> None:
    segment.go.clear()
    running, waiting = client.submit(), client.submit()
    client.wait_for(running, "running")
    assert client.ask("DELETE", f"/api/jobs/{waiting}").status_code == 204
    assert not (folder / waiting).exists()
    segment.go.set()
    client.wait_for(running, "done")
    assert len(segment.seen) == 1


def test_a_scan_that_runs_is_stopped_and_all_its_files_go(
    client: Client, segment: Scripted, folder: Path
) -> None:
    segment.go.clear()
    running, next_one = client.submit(), client.submit()
    client.wait_for(running, "running")
    assert client.ask("DELETE", f"/api/jobs/{running}").status_code == 204
    assert client.ask("GET", f"/api/jobs/{running}").status_code == 404
    segment.go.set()
    client.wait_for(next_one, "done")
    assert not (folder / running).exists()


def test_results_go_after_the_time_to_keep_them(
    make_client: MakeClient, clock: Clock, folder: Path
) -> None:
    client = make_client(keep_s=60.0)
    queue = client.queue
    job_id = client.submit()
    client.wait_for(job_id, "done")
    clock.now += 59
    queue.sweep()
    assert client.status(job_id)["kept_s"] == 1
    clock.now += 2
    queue.sweep()
    assert client.ask("GET", f"/api/jobs/{job_id}").status_code == 404
    assert list(folder.iterdir()) == []


def test_an_upload_that_stopped_is_removed(
    make_client: MakeClient, clock: Clock, folder: Path
) -> None:
    client = make_client(idle_s=10.0)
    client.put(client.create(files=2), b"half")
    clock.now += 21
    client.queue.sweep()
    assert list(folder.iterdir()) == []


def test_deleting_removes_the_results_at_once(client: Client, folder: Path) -> None:
    job_id = client.submit()
    client.wait_for(job_id, "done")
    assert client.ask("DELETE", f"/api/jobs/{job_id}").status_code == 204
    assert list(folder.iterdir()) == []
    assert client.ask("GET", f"/api/jobs/{job_id}/results/scan.nii.gz").status_code == 404


FAILURES = {
    "bad input": (
        InputError("is cut short", path=Path("/x/upload/file-00000.nii.gz"), mend="re-copy it"),
        "file-00000.nii.gz: is cut short. Re-copy it.",
    ),
    "memory": (MemoryError(), "The scan needs more memory than this machine has free."),
    "disk": (OSError(errno.ENOSPC, "no space"), "The server's disk is full."),
    "other": (ZeroDivisionError("CANARY"), "Segmenting failed unexpectedly (ZeroDivisionError)."),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_scan_that_fails_says_one_line_leaves_no_file_and_stops_nothing(
    kind: str,
    client: Client,
    segment: Scripted,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    segment.error, line = FAILURES[kind]
    failed = client.submit()
    assert client.wait_for(failed, "failed")["error"] == line
    assert list(folder.iterdir()) == []
    segment.error = None
    client.wait_for(client.submit(), "done")
    assert "CANARY" not in caplog.text


def test_stopping_ends_the_scan_that_runs_and_removes_every_file(
    client: Client, segment: Scripted, folder: Path
) -> None:
    segment.go.clear()
    running = client.submit()
    client.submit()
    client.wait_for(running, "running")
    segment.go.set()
    client.queue.stop()
    assert list(folder.iterdir()) == []


def test_a_scan_that_is_deleted_as_it_is_started_does_not_run(
    client: Client, segment: Scripted, folder: Path
) -> None:
    job = client.queue.find(client.create())
    assert job is not None
    client.queue.delete(job.job_id)
    client.queue.submit(job)
    client.wait_for(client.submit(), "done")
    assert len(segment.seen) == 1


def test_the_log_holds_neither_the_whole_id_nor_a_name(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    job_id = client.submit()
    client.wait_for(job_id, "done")
    client.ask("DELETE", f"/api/jobs/{job_id}")
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("samcancer")]
    assert f"job {job_id[:8]}: deleted" in ours
    assert [line for line in ours if job_id in line] == []


def test_a_storm_of_scans_and_deletions_ends_with_an_empty_folder(
    make_client: MakeClient, segment: Scripted, folder: Path
) -> None:
    client = make_client(waiting=50)
    generator = np.random.default_rng(0)
    known: list[str] = []
    for _ in range(300):
        if known and generator.random() < 0.5:
            job_id = known.pop(generator.integers(len(known)))
            assert client.ask("DELETE", f"/api/jobs/{job_id}").status_code == 204
        elif generator.random() < 0.7:
            known.append(client.submit())
        else:
            known.append(client.create())
    for job_id in known:
        assert client.ask("DELETE", f"/api/jobs/{job_id}").status_code == 204
    wait_until(lambda: list(folder.iterdir()) == [])
    last = client.submit()
    client.wait_for(last, "done")
    assert [path.name for path in folder.iterdir()] == [last]
