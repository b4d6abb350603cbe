from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from ct_series import write_ct_series
from inference_fakes import WriteScan, bright_box, make_ensemble

from samcancer.commands import run_verb
from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.inference.models import load_ensemble
from samcancer.modeling import build_model
from samcancer.taxonomy import ClassSpec, PostProcess
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint

CLASSES = ("liver_lesion", "kidney_lesion")


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble",
        lambda paths, **options: make_ensemble(),
    )


@pytest.fixture(autouse=True)
def _quiet_logging() -> None:
    """Keep the command from adding handlers to the root logger of the test run."""
    logging.getLogger().addHandler(logging.NullHandler())


def infer(scan: Path, output: Path, *options: str) -> int:
    return run_verb(
        "infer-volume",
        ["--input", str(scan), "--output", str(output), "--model", "run", "--quiet", *options],
    )


@pytest.mark.usefixtures("fake_model")
def test_a_good_scan_gives_a_mask_and_status_0(write_scan: WriteScan, tmp_path: Path) -> None:
    scan = write_scan("scan_0000.nii.gz", bright_box())
    assert infer(scan, tmp_path / "out", "--device", "cpu") == 0
    written = sorted(p.name for p in (tmp_path / "out").glob("scan*"))
    assert written == ["scan.json", "scan.lesions.csv", "scan.nii.gz"]


def test_no_postprocess_leaves_the_labels_raw_and_asks_for_another_result(
    monkeypatch: pytest.MonkeyPatch, write_scan: WriteScan, tmp_path: Path
) -> None:
    everything = PostProcess(min_volume_ml=1000.0)
    ensemble = make_ensemble(
        ClassSpec(name="bright", title="", kind="lesion", postprocess=everything)
    )
    monkeypatch.setattr("samcancer.inference.models.load_ensemble", lambda *_, **__: ensemble)
    scan = write_scan("scan.mha", bright_box())
    out, counts = tmp_path / "out", []
    for options in ((), ("--no-postprocess",), ()):
        assert infer(scan, out, "--device", "cpu", "--skip-finished", *options) == 0
        report = json.loads((out / "scan.json").read_text())
        counts.append(report["classes"]["bright"]["components"])
    assert counts == [0, 1, 0]


@pytest.mark.usefixtures("fake_model")
def test_some_failures_give_status_1_and_a_list(
    write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scan("in/a.nii.gz", bright_box()).parent
    (folder / "b.nii.gz").write_bytes(b"")
    assert infer(folder, tmp_path / "out", "--device", "cpu") == 1
    assert (tmp_path / "out" / "a.nii.gz").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: b.nii.gz: the file is empty (0 bytes). Re-copy the file."


@pytest.mark.usefixtures("fake_model")
def test_a_single_bad_scan_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"")
    assert infer(bad, tmp_path / "out", "--device", "cpu") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "bad.nii.gz" in lines[-1]


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize("options", [("--batch", "0"), ("--precision", "8"), ("--device", "tpu")])
def test_bad_options_give_status_2(options: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        infer(tmp_path, tmp_path / "out", *options)
    assert stop.value.code == 2


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ((), ["seg", "sr"]),
        (("--no-dicom",), []),
        (("--dicom", "seg"), ["seg"]),
        (("--dicom", "seg,sr,rtstruct"), ["rtstruct", "seg", "sr"]),
    ],
)
def test_the_wanted_dicom_objects_are_written(
    options: tuple[str, ...], kinds: list[str], tmp_path: Path
) -> None:
    scan = write_ct_series(tmp_path / "scan", bright_box())
    assert infer(scan, tmp_path / "out", "--device", "cpu", *options) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.dcm"))
    assert names == [f"scan.{kind}.dcm" for kind in kinds]


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dicom", "seg,dose"), "--dicom has no 'dose'. Choose from seg, sr, rtstruct."),
        (("--dicom", "sr"), "Give --dicom seg,sr."),
        (("--dicom", "seg"), "has no StudyInstanceUID. Leave the DICOM results out with"),
    ],
)
def test_dicom_objects_that_cannot_be_written_are_one_line_and_status_2(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_ct_series(tmp_path / "scan", bright_box(), StudyInstanceUID=None)
    assert infer(scan, tmp_path / "out", "--device", "cpu", *options) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "out").glob("scan*"))


@pytest.mark.usefixtures("fake_model")
def test_half_precision_on_a_cpu_is_refused(
    write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    options = ("--device", "cpu", "--precision", "bf16-mixed")
    assert infer(scan, tmp_path / "out", *options) == 2
    assert "far slower than 32-true on a CPU" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_model")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused(
    write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    assert infer(scan, tmp_path / "out", "--device", "cuda") == 2
    assert "no usable GPU was found. Use --device cpu." in capsys.readouterr().err


def test_a_missing_model_is_refused(
    write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    assert infer(scan, tmp_path / "out", "--device", "cpu") == 2
    assert "run: no such model. Name a run folder" in capsys.readouterr().err


def save_run(folder: Path, *, seed: int = 0, image_size: int = 64) -> Path:
    """Write an untrained network as a finished run."""
    config = Config(
        model=ModelConfig(image_size=image_size, cnn_width=4),
        data=DataConfig(inference_window_hu=(-160.0, 240.0)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(config.model, CLASSES)
    folder.mkdir(parents=True, exist_ok=True)
    meta = CheckpointMeta(
        config=config, class_names=CLASSES, presence_thresholds={"liver_lesion": 0.25}
    )
    save_checkpoint(folder / "best", model, meta)
    return folder


def test_real_checkpoints_segment_a_scan(write_scan: WriteScan, tmp_path: Path) -> None:
    scan = write_scan("a.mha", bright_box())
    runs = [save_run(tmp_path / "runs" / "final"), save_run(tmp_path / "other", seed=1)]
    status = run_verb(
        "infer-volume",
        [
            *("--input", str(scan), "--output", str(tmp_path / "out"), "--device", "cpu"),
            *("--model", str(runs[0].parent), str(runs[1]), "--quiet"),
        ],
    )
    assert status == 0
    mask = sitk.ReadImage(str(tmp_path / "out" / "a.mha"))
    assert mask.GetSize() == sitk.ReadImage(str(scan)).GetSize()


def test_an_ensemble_takes_each_window_and_the_mean_threshold(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / "a"), save_run(tmp_path / "b", seed=1)]
    ensemble = load_ensemble(runs, device="cpu")
    assert ensemble.class_names == CLASSES
    assert {name: spec.title for name, spec in ensemble.organs.items()} == {
        "liver": "liver",
        "kidneys": "kidneys",
    }
    assert [m.window_hu for m in ensemble.members] == [(-160.0, 240.0)] * 2
    torch.testing.assert_close(ensemble.thresholds, torch.tensor([0.25, 0.5]))
    assert len(set(ensemble.sha256)) == 2
    assert ensemble.image_size == 64


def test_a_folder_of_folds_alone_is_not_a_model(tmp_path: Path) -> None:
    save_run(tmp_path / "fold_0")
    save_run(tmp_path / "fold_1")
    with pytest.raises(ValueError, match="holds no final model, only fold_0, fold_1"):
        load_ensemble([tmp_path], device="cpu")


def test_models_of_different_sizes_are_not_averaged(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / "a"), save_run(tmp_path / "b", image_size=32)]
    with pytest.raises(ValueError, match="has image size 32, the first model has 64"):
        load_ensemble(runs, device="cpu")


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize(
    ("budget", "message"),
    [("4", "is not a size. Write it like 4GB or 512MiB"), ("1KB", "Allow at least --budget")],
)
def test_a_budget_that_cannot_be_kept_is_one_line_and_status_2(
    budget: str,
    message: str,
    write_scan: WriteScan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = write_scan("scan.nii.gz", bright_box())
    assert infer(scan, tmp_path / "out", "--device", "cpu", "--budget", budget) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "out").glob("scan*"))


@pytest.mark.usefixtures("fake_model")
def test_neither_budget_nor_air_changes_a_byte_of_the_mask(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    volume = bright_box(12)
    volume[7:] = -1024
    scan = write_scan("scan.nii.gz", volume)
    masks = []
    for name, options in {
        "plain": [],
        "budget": ["--budget", "1GB"],
        "batch": ["--batch", "5"],
        "air": ["--no-skip-air"],
    }.items():
        assert infer(scan, tmp_path / name, "--device", "cpu", *options) == 0
        masks.append((tmp_path / name / "scan.nii.gz").read_bytes())
    assert masks[1:] == masks[:-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_stitching_device_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--model", str(tmp_path)]
    assert run_verb("infer-volume", [*words, "--stitch-device", "cuda"]) == 2
    assert "--stitch-device cuda: no usable GPU was found" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_model")
def test_html_adds_a_page_of_each_scan_and_an_index(write_scan: WriteScan, tmp_path: Path) -> None:
    scan, out = write_scan("scan_0000.nii.gz", bright_box()), tmp_path / "out"
    assert infer(scan, out, "--device", "cpu", "--html") == 0
    assert sorted(p.name for p in out.glob("*.html")) == ["index.html", "scan.html"]
    assert str(tmp_path) not in (out / "scan.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("fake_model")
def test_html_writes_missing_pages_of_finished_scans_and_leaves_the_others(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan, out = write_scan("scan_0000.nii.gz", bright_box()), tmp_path / "out"
    again = ("--device", "cpu", "--html", "--skip-finished")
    assert infer(scan, out, "--device", "cpu") == 0
    assert infer(scan, out, *again) == 0
    written = (out / "scan.html").stat().st_mtime_ns
    assert infer(scan, out, *again) == 0
    assert (out / "scan.html").stat().st_mtime_ns == written


@pytest.mark.usefixtures("fake_model")
def test_the_index_lists_a_scan_that_failed_without_its_path(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan, out = write_scan("scan_0000.nii.gz", bright_box()), tmp_path / "out"
    (scan.parent / "broken.nii.gz").write_bytes(scan.read_bytes()[:-50])
    assert infer(scan.parent, out, "--device", "cpu", "--html") == 1
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "<strong>broken:</strong>" in text
    assert str(tmp_path) not in text
