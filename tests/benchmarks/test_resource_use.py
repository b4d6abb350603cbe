"""What a watched command used: time, its own memory and its children's, and the GPU's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from resource_use import MIB, Usage, describe, high_water_bytes, resident_bytes, run_watched

from samcancer.errors import InputError

HOLD = "import time; x = bytearray({mib} * 2**20); time.sleep({seconds}); print('done')"


def hold(mib: int, seconds: float) -> list[str]:
    return [sys.executable, "-c", HOLD.format(mib=mib, seconds=seconds)]


def test_time_runs_from_start_to_end() -> None:
    usage = run_watched(hold(1, 0.5))
    assert usage.wall_s > 0.5
    assert usage.output == "done\n"


def test_memory_held_is_the_peak_and_under_the_area() -> None:
    usage = run_watched(hold(200, 1.0))
    assert 200 * MIB < usage.peak_bytes < 300 * MIB
    assert 200 * MIB * 0.8 < usage.area_byte_s < usage.peak_bytes * usage.wall_s


def test_the_memory_of_children_counts() -> None:
    parent = f"import subprocess; subprocess.run({hold(150, 0.5)!r})"
    assert run_watched([sys.executable, "-c", parent]).peak_bytes > 150 * MIB


def test_a_process_holds_no_more_than_it_ever_held() -> None:
    assert 0 < resident_bytes() <= high_water_bytes()


def test_of_a_process_that_has_ended_nothing_is_resident() -> None:
    ended = 2**22 + 1  # above the kernel's largest process id
    assert resident_bytes(ended) == high_water_bytes(ended) == 0


def test_a_failing_command_is_refused() -> None:
    with pytest.raises(InputError, match="exit status 3"):
        run_watched([sys.executable, "-c", "raise SystemExit(3)"])


def test_gpu_memory_counts_over_what_was_used_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 100\nsleep 0.3\necho 350\nsleep 0.2\necho 150\nexec sleep 9\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    usage = run_watched(hold(1, 1.0))
    assert usage.gpu_peak_bytes == 250 * MIB
    assert usage.gpu_area_byte_s is not None
    assert usage.gpu_area_byte_s > 0


def test_without_a_gpu_nothing_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    usage = run_watched(hold(1, 0.1))
    assert usage.gpu_peak_bytes is None
    assert "GPU" not in describe(usage)


def test_a_line_describes_everything() -> None:
    usage = Usage(
        wall_s=1.5,
        peak_bytes=10 * MIB,
        area_byte_s=15.0 * MIB,
        gpu_peak_bytes=3 * MIB,
        gpu_area_byte_s=4.0 * MIB,
        output="",
    )
    expected = "1.50 s, peak 10 MiB, area 15 MiB s, GPU peak 3 MiB, GPU area 4 MiB s"
    assert describe(usage) == expected
