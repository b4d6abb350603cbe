"""Calibrated thresholds reach the masks, the reports and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_fakes import WriteScan, bright_box, infer, make_ensemble

from samcancer.config import Config, ModelConfig
from samcancer.errors import InputError
from samcancer.inference.calibrated import with_min_volume
from samcancer.inference.finished import request_sha256
from samcancer.inference.models import load_ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import segment_scan
from samcancer.modeling import build_model
from samcancer.taxonomy import ClassSpec, PostProcess
from samcancer.training.calibration_file import (
    CALIBRATION_NAME,
    Calibration,
    ClassThresholds,
    write_calibration,
)
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint

CLASSES = ("liver_lesion", "liver")
"""A lesion and an organ, which is not calibrated."""

THRESHOLDS = ClassThresholds(presence=0.75, probability=0.9, min_volume_ml=0.5)


def save_run(folder: Path, *, seed: int = 0) -> tuple[Path, str]:
    """An untrained network as a finished run; returns the folder and the weights' SHA-256."""
    config = Config(model=ModelConfig(image_size=64, cnn_width=4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(config.model, CLASSES)
    meta = CheckpointMeta(
        config=config, class_names=CLASSES, presence_thresholds=dict.fromkeys(CLASSES, 0.25)
    )
    return folder, save_checkpoint(folder / "best", model, meta)


def calibrate(run: Path, sha256: str, thresholds: ClassThresholds = THRESHOLDS) -> None:
    write_calibration(
        run,
        model_sha256=sha256,
        classes={"liver_lesion": thresholds},
        max_fp_scans=0.05,
        figures={},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run, sha256 = save_run(tmp_path / "run")
    calibrate(run, sha256)
    return run


@pytest.mark.parametrize("name", ["", "best.safetensors"])
def test_the_lesion_class_takes_its_thresholds_and_the_organ_keeps_its_own(
    name: str, run: Path
) -> None:
    ensemble = load_ensemble([run / name], device="cpu")
    torch.testing.assert_close(ensemble.thresholds, torch.tensor([0.75, 0.25]))
    assert ensemble.probability_thresholds == (0.9, 0.5)
    assert ensemble.mask_thresholds is not None
    torch.testing.assert_close(torch.sigmoid(ensemble.mask_thresholds), torch.tensor([0.9, 0.5]))
    assert [c.postprocess.min_volume_ml for c in ensemble.classes] == [0.5, 0.0]
    report = ensemble.calibration_report()
    assert report is not None
    assert report["classes"]["liver_lesion"] == {"probability_threshold": 0.9, "min_volume_ml": 0.5}


def test_without_calibration_the_model_is_as_it_was(run: Path, tmp_path: Path) -> None:
    plain, _ = save_run(tmp_path / "plain")
    ignored = load_ensemble([run], device="cpu", use_calibration=False)
    never = load_ensemble([plain], device="cpu")
    for ensemble in (ignored, never):
        assert ensemble.probability_thresholds is None
        assert ensemble.calibration_report() is None
    assert ignored.classes == never.classes
    torch.testing.assert_close(ignored.thresholds, never.thresholds)
    options = InferenceOptions()
    assert request_sha256(ignored, options) == request_sha256(never, options)
    assert request_sha256(ignored, options) != request_sha256(
        load_ensemble([run], device="cpu"), options
    )


def test_calibrations_of_several_models_are_averaged_with_a_warning(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other, sha256 = save_run(tmp_path / "other", seed=1)
    calibrate(other, sha256, ClassThresholds(presence=0.25, probability=0.5, min_volume_ml=1.5))
    ensemble = load_ensemble([run, other], device="cpu")
    torch.testing.assert_close(ensemble.thresholds, torch.tensor([0.5, 0.25]))
    assert ensemble.probability_thresholds == (pytest.approx(0.7), 0.5)
    assert ensemble.classes[0].postprocess.min_volume_ml == 1
    assert len(ensemble.calibrations) == 2
    assert "measured for each alone, not for their mean" in caplog.text


def test_an_ensemble_of_which_some_are_calibrated_is_refused(run: Path, tmp_path: Path) -> None:
    other, _ = save_run(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"other: is not calibrated, and other models.*are\. Cal"):
        load_ensemble([run, other], device="cpu")
    assert load_ensemble([run, other], device="cpu", use_calibration=False).calibrations == ()


def test_a_calibration_of_earlier_weights_is_one_line_and_can_be_left_out(
    run: Path, write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(run, seed=2)
    scan = write_scan("scan.nii.gz", bright_box())
    assert infer(scan, tmp_path / "out", run) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{run / CALIBRATION_NAME}: was fitted for other weights than these." in message
    assert infer(scan, tmp_path / "out", run, "--no-calibration") == 0
    report = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert report["model"]["calibration"] is None


def test_a_calibration_in_a_fusion_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CALIBRATION_NAME).write_text("{}")
    monkeypatch.setattr("samcancer.inference.models.is_fusion", lambda _: True)
    monkeypatch.setattr("samcancer.inference.models._load", lambda *_, **__: make_ensemble())
    with pytest.raises(InputError, match="lies in a fusion, which cannot be calibrated"):
        load_ensemble([tmp_path], device="cpu")


def test_the_larger_of_two_smallest_volumes_holds() -> None:
    spec = ClassSpec(
        name="a",
        title="a",
        kind="lesion",
        postprocess=PostProcess(min_volume_ml=0.3, keep="largest"),
    )
    assert with_min_volume(spec, 0.1) == spec
    assert with_min_volume(spec, 0.4).postprocess == PostProcess(min_volume_ml=0.4, keep="largest")


def test_a_scan_is_marked_above_the_calibrated_probability_only(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    # The fake's logit is 20 (HU - 200) / 2000: 2 in the box of 400 HU, 7 in its core of 900 HU.
    ensemble = make_ensemble()
    scan = write_scan("scan.nii.gz", bright_box())
    calibration = Calibration({}, 0.05, "c" * 64)
    strict = replace(
        ensemble,
        probability_thresholds=(float(torch.sigmoid(torch.tensor(4.0))),),
        calibrations=(calibration,),
    )
    volumes = []
    for name, model in {"plain": ensemble, "strict": strict}.items():
        report = segment_scan(
            scan, tmp_path / name, case_id="scan", ensemble=model, options=InferenceOptions()
        )
        volumes.append(report["classes"]["bright"]["volume_ml"])
    voxel_ml = 0.6 * 0.8 * 5 / 1000
    box, core = 3 * 12 * 16 * voxel_ml, 4 * 6 * voxel_ml
    assert volumes[0] == pytest.approx(box, rel=0.1)
    assert volumes[1] == pytest.approx(core, rel=0.35)  # its border is blurred by the resizing
    assert np.diff(volumes) < 0
