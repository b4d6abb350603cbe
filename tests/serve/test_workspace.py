from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from samcancer.files import folder_lock
from samcancer.serve.workspace import WORKSPACE_PREFIX, open_workspace, remove_stale_workspaces


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_is_private_and_goes_with_all_that_is_in_it(temporary: Path) -> None:
    with open_workspace() as folder:
        assert folder.name.startswith(WORKSPACE_PREFIX)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "job").mkdir()
        (folder / "job" / "scan.nii.gz").write_bytes(b"x")
    assert list(temporary.iterdir()) == []


def test_the_folder_goes_when_the_server_fails(temporary: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), open_workspace():
        raise RuntimeError("on purpose")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_server_left_is_removed_at_the_next_start(temporary: Path) -> None:
    left = temporary / f"{WORKSPACE_PREFIX}left"
    (left / "job" / "upload").mkdir(parents=True)
    (left / "job" / "upload" / "file-00000.nii.gz").write_bytes(b"x")
    (left / ".lock").write_text("pid 1 (serve)")
    with open_workspace() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folder_of_a_server_that_runs_is_left_alone(temporary: Path) -> None:
    running = temporary / f"{WORKSPACE_PREFIX}running"
    running.mkdir()
    with folder_lock(running, purpose="serve"), open_workspace():
        assert running.is_dir()
    assert list(temporary.iterdir()) == [running]


def test_two_servers_do_not_take_each_others_folder() -> None:
    with open_workspace() as one, open_workspace() as other:
        assert one.is_dir()
        assert other.is_dir()


def test_folders_without_the_prefix_and_links_are_never_touched(temporary: Path) -> None:
    precious = temporary / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    link = temporary / f"{WORKSPACE_PREFIX}link"
    link.symlink_to(precious)
    assert remove_stale_workspaces(temporary) == 0
    assert (precious / "thesis.txt").read_text() == "x"
    assert link.is_symlink()


def test_a_folder_that_is_just_being_locked_is_no_leftover(temporary: Path) -> None:
    fresh, old = temporary / "samcancer-new-a", temporary / "samcancer-new-b"
    for folder in (fresh, old):
        folder.mkdir()
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    assert remove_stale_workspaces(temporary) == 1
    assert fresh.is_dir()
    assert not old.exists()


def test_a_folder_for_temporary_files_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "absent"))
    with (
        pytest.raises(ValueError, match=r"cannot create a folder in it .*Set TMPDIR"),
        open_workspace(),
    ):
        pass
