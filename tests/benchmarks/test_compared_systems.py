"""The compared systems run whole with few patches of the network."""

from __future__ import annotations

import json
import time
from pathlib import Path

import compared_systems
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
import workload as made
from torch import Tensor

SLOW_S = 0.05


def slow_network(patch: Tensor) -> Tensor:
    time.sleep(SLOW_S)
    return torch.ones(1, compared_systems.CLASSES, *patch.shape[2:])


@pytest.mark.parametrize(("wanted", "run", "timed"), [(None, 6, 6), (2, 3, 2), (9, 6, 5)])
def test_the_time_of_some_patches_is_multiplied_up(
    wanted: int | None, run: int, timed: int
) -> None:
    clock = compared_systems.PatchClock(wanted)
    answers = [clock(slow_network, torch.zeros(1, 1, 2, 3, 4)) for _ in range(6)]
    assert sum(bool(answer.any()) for answer in answers) == run
    assert all(answer.shape == (1, compared_systems.CLASSES, 2, 3, 4) for answer in answers)
    report = clock.report()
    assert (report["patches"], report["timed"]) == (6, timed)
    assert report["spent_s"] == pytest.approx(run * SLOW_S, rel=0.5)
    assert report["all_s"] == pytest.approx(6 * SLOW_S, rel=0.5)


def test_the_first_patch_warms_up_and_is_not_counted() -> None:
    clock = compared_systems.PatchClock(1)
    clock.seconds, clock.patches = [10.0, 1.0], 4
    assert clock.report()["all_s"] == 4.0


def test_segresnet_segments_a_scan_on_its_own_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("monai", reason="needs the extra 'benchmarks'")
    scan, mask = made.write_scan(tmp_path / "ct.nii.gz", 10, 64), tmp_path / "mask.nii.gz"
    words = ["segresnet", "--scan", str(scan), "--mask", str(mask), "--window", "16"]
    assert compared_systems.main([*words, "--patches", "1", "--threads", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    # 64 x 64 x 10 voxels of 0.8 x 0.8 x 2.5 mm are 34 x 34 x 12 of MONAI's: 4 x 4 x 1 windows.
    assert (report["patches"], report["timed"]) == (16, 1)
    assert sitk.ReadImage(str(mask)).GetSize() == (64, 64, 10)


def test_nnunet_divides_a_scan_by_its_own_slicer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nnunetv2", reason="needs the extra 'benchmarks'")
    monkeypatch.setattr(compared_systems, "NNUNET_PATCH", (16, 32, 32))
    monkeypatch.setattr(compared_systems, "NNUNET_FEATURES", (4, 8))
    monkeypatch.setattr(compared_systems, "NNUNET_STRIDES", ((1, 1, 1), (2, 2, 2)))
    scan, mask = made.write_scan(tmp_path / "ct.nii.gz", 24, 64), tmp_path / "mask.nii.gz"
    words = ["nnunet_mirrored", "--scan", str(scan), "--mask", str(mask), "--threads", "1"]
    assert compared_systems.main([*words, "--patches", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["patches"], report["timed"]) == (2 * 3 * 3, 1)
    assert sitk.ReadImage(str(mask)).GetSize() == (64, 64, 24)
