"""What the runs of a folder share is written once, whole, and compared after that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from samcancer.config import Config, DataConfig, load_config
from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX, folder_lock
from samcancer.training.shared_files import keep_config, shared_folder

CONFIG = Config(folds=3)


def test_the_first_run_writes_the_configuration_and_others_compare(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    keep_config(path, CONFIG)
    assert load_config(path) == CONFIG
    keep_config(path, CONFIG)
    with pytest.raises(InputError, match=r"another configuration \(folds is 3 there and 4 here\)"):
        keep_config(path, Config(folds=4))


def test_the_number_of_workers_may_differ(tmp_path: Path) -> None:
    keep_config(tmp_path / "config.yaml", CONFIG)
    keep_config(tmp_path / "config.yaml", Config(folds=3, data=DataConfig(workers=7)))


def test_what_a_killed_start_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY_PREFIX}0123-folds.json").write_text("half")
    (tmp_path / "folds.json").write_text("whole")
    with shared_folder(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "folds.json"]


def test_a_run_waits_for_another_that_starts(tmp_path: Path) -> None:
    """Locks of two open files of one process exclude each other as those of two processes do."""
    order: list[str] = []

    def wait_for_the_turn() -> None:
        with shared_folder(tmp_path):
            order.append("second")

    with folder_lock(tmp_path, purpose="starting a run"):
        second = threading.Thread(target=wait_for_the_turn)
        second.start()
        second.join(timeout=0.2)
        order.append("first")
    second.join(timeout=60)
    assert order == ["first", "second"]
