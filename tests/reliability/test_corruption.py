"""Damaged files among sound ones, through the real command; and damage to what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damage import DamagedCopies, damaged_copies
from inference_fakes import bright_box, make_ensemble
from reliability_figures import Tally
from small_run import save_run
from volume_fakes import save_by_itk

from samcancer.commands import EXIT_OK, EXIT_SOME_FAILED, run_verb
from samcancer.files import TEMPORARY_PREFIX
from samcancer.inference.finished import finished_report
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import segment_scan

KINDS = ("nii.gz", "mha", "nrrd", "nii")


@pytest.mark.figure("corruption", "through infer-volume")
def test_damaged_scans_of_a_batch_fail_alone_and_in_one_line_each(
    tally: Tally,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scans, run, out = tmp_path / "scans", save_run(tmp_path / "run"), tmp_path / "out"
    scans.mkdir()
    cut = []
    for trial in tally.trials():
        path = save_by_itk(scans / f"damaged_{trial:03}.{KINDS[trial % len(KINDS)]}", bright_box(4))
        if trial // len(KINDS) % 2:
            DamagedCopies(path).overwrite(trial)
        else:
            DamagedCopies(path).cut(trial)
            cut.append(path.name.split(".")[0])
    for name in ("a_sound", "z_sound"):
        save_by_itk(scans / f"{name}.nii.gz", bright_box(4))
    words = ["--input", str(scans), "--output", str(out), "--model", str(run), "--device", "cpu"]
    assert run_verb("infer-volume", [*words, "--quiet"]) == EXIT_SOME_FAILED
    told = caplog.text + capfd.readouterr().err
    assert "Traceback" not in told
    cases = {path.name.split(".")[0]: path for path in scans.iterdir()}
    done = {path.stem for path in out.glob("*.json")} & cases.keys()
    assert {"a_sound", "z_sound"} <= done
    assert done.isdisjoint(cut)
    for case_id in cases.keys() - done:
        assert f"{cases[case_id].name}: " in told
    assert {path.name.split(".")[0] for path in out.iterdir()} & cases.keys() == done
    assert [path.name for path in out.rglob(f"{TEMPORARY_PREFIX}*")] == []
    assert run_verb("infer-volume", [*words, "--quiet", "--skip-finished"]) == EXIT_SOME_FAILED
    assert {path.stem for path in out.glob("*.json")} & cases.keys() == done


@pytest.mark.figure("artefacts", "{name}")
@pytest.mark.parametrize("name", ["case.nii.gz", "case.lesions.csv"])
def test_a_flipped_bit_in_a_result_is_seen_and_the_case_done_again(
    name: str, tally: Tally, tmp_path: Path
) -> None:
    scan, out, options = tmp_path / "case.nii.gz", tmp_path / "out", InferenceOptions()
    save_by_itk(scan, bright_box())
    ensemble = make_ensemble()
    segment_scan(scan, out, case_id="case", ensemble=ensemble, options=options)

    def is_finished() -> bool:
        report = finished_report(scan, out, case_id="case", ensemble=ensemble, options=options)
        return report is not None

    assert is_finished()
    with damaged_copies(out / name) as copies:
        for seed in tally.trials():
            copies.flip_a_bit(seed)
            assert not is_finished()
    assert is_finished()


@pytest.mark.figure("corruption", "checkpoint, through infer-volume")
@pytest.mark.parametrize("name", ["best.safetensors", "best.json"])
def test_a_damaged_model_is_refused_by_the_command_and_nothing_is_written(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scan = save_by_itk(tmp_path / "scan.nii.gz", bright_box(4))
    run, out = save_run(tmp_path / "run"), tmp_path / "out"
    words = ["--input", str(scan), "--output", str(out), "--model", str(run), "--device", "cpu"]
    with damaged_copies(run / name) as copies:
        for seed in range(12):
            copies.spoil(seed)
            assert run_verb("infer-volume", [*words, "--quiet"]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert line.startswith(f"error: {run}/best.")
            assert list(out.iterdir()) == []
    assert run_verb("infer-volume", [*words, "--quiet"]) == EXIT_OK
    assert json.loads((out / "scan.json").read_text())["case"] == "scan"
