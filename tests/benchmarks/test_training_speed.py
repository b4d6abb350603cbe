"""The table of training speed is filled from processes of their own, one a setting."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import training_speed
from training_speed import Setting, configuration, group_processor_s

PATIENCE_S = 60


def test_settings_differ_in_what_they_compare_only(tmp_path: Path) -> None:
    exchange, ladder, cached = (
        configuration(Setting("medsam_lite", mode), tmp_path) for mode in training_speed.MODES
    )
    assert exchange.model.interaction == "exchange"
    assert (ladder.model, ladder.data) == (cached.model, cached.data)
    assert cached.train.feature_cache == str(tmp_path / "medsam_lite")
    assert {c.augmentation.probability for c in (exchange, ladder, cached)} == {0.0}


def test_a_step_has_as_many_stacks_whatever_the_targets(tmp_path: Path) -> None:
    stacks = [
        config.train.batch_size * config.data.slices_per_sample
        for config in (
            configuration(Setting("medsam_lite", "ladder", targets=t), tmp_path)
            for t in training_speed.TARGETS
        )
    ]
    assert len(set(stacks)) == 1


def test_processor_time_is_that_of_the_whole_group() -> None:
    before = group_processor_s()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        deadline = time.monotonic() + PATIENCE_S
        while group_processor_s() - before < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        busy.kill()


def test_ratios_are_to_exchange_with_as_many_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"exchange": 2.0, "ladder": 3.0, "ladder, cached": 8.0}

    def measured(args: Namespace, folder: Path, setting: Setting) -> dict[str, float]:
        if setting.mode == "fill":
            return {"slices_per_s": 1.5, "mb_per_slice": 6.4}
        rate = rates[setting.mode] * setting.targets
        return {"stacks_per_s": rate, "waiting": 0.125, "cores_busy": 1.5}

    monkeypatch.setattr(training_speed, "in_own_process", measured)
    args = Namespace(encoders=["medsam_lite"], seconds=1.0)
    table = training_speed.modes_table(args, tmp_path, "medsam_lite")
    assert "| ladder, cached | 4 | 32.00 | 4.00 | 12.5% | 1.50 |" in table
    assert table.endswith("Filling the cache: 1.5 slices a second, 6.4 MB a slice.")
    splits = training_speed.splits_table(args, tmp_path)
    assert "| 2 loader processes, 1 threads | 2.00 | 12.5% | 1.50 | 8.00 | 12.5% | 1.50 |" in splits
