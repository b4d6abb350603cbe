from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path

import pytest
from inference_fakes import WriteScan, bright_box, make_ensemble

from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX, folder_lock
from samcancer.inference import batch
from samcancer.inference.batch import BatchResult, find_scans, segment_scans
from samcancer.inference.options import InferenceOptions
from samcancer.volume_io import case_id_of

SUFFIXES = (".nii.gz", ".mha", ".nii", ".nrrd", ".nii.gz")


def run(folder: Path, output: Path, *, skip_finished: bool = True) -> BatchResult:
    return segment_scans(
        find_scans([folder]),
        output,
        ensemble=make_ensemble(),
        options=InferenceOptions(per_class=True),
        skip_finished=skip_finished,
    )


def write_scans(write_scan: WriteScan) -> Path:
    for index, suffix in enumerate(SUFFIXES):
        volume = bright_box(4 + index, level_hu=300 + 50 * index)
        path = write_scan(f"scans/case_{index}{suffix}", volume)
    return path.parent


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("liver_12_0000.nii.gz", "liver_12"),
        ("liver_12.mha", "liver_12"),
        ("a.b_0001.nrrd", "a.b_0001"),
        ("scan with space_0000.nii", "scan with space"),
    ],
)
def test_the_case_id_has_no_suffix_and_no_channel(name: str, case_id: str) -> None:
    assert case_id_of(Path("folder") / name) == case_id


def test_files_and_folders_may_be_mixed(write_scan: WriteScan, tmp_path: Path) -> None:
    folder = write_scans(write_scan)
    single = write_scan("elsewhere/ünï cödé_0000.nii.gz", bright_box())
    scans = find_scans([single, folder])
    assert list(scans) == ["ünï cödé", *(f"case_{i}" for i in range(5))]


def test_two_scans_of_one_case_id_are_refused(write_scan: WriteScan) -> None:
    first = write_scan("a/x_0000.nii.gz", bright_box())
    second = write_scan("b/x.mha", bright_box())
    with pytest.raises(InputError, match=r"has the case id 'x', as .*x_0000\.nii\.gz has"):
        find_scans([first, second])


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_scans([tmp_path / "nowhere"])


def test_a_failing_scan_does_not_stop_the_others(
    write_scan: WriteScan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_scans(write_scan)
    (folder / "case_1.mha").write_bytes(b"not a scan")
    with caplog.at_level(logging.INFO):
        result = run(folder, tmp_path / "out")
    assert result.finished == ["case_0", "case_2", "case_3", "case_4"]
    assert list(result.failures) == ["case_1"]
    assert "\n" not in result.failures["case_1"]
    assert "case_1 failed" in caplog.text
    assert not (tmp_path / "out" / "case_1.json").exists()


def test_finished_cases_are_skipped_and_untouched(write_scan: WriteScan, tmp_path: Path) -> None:
    folder, out = write_scans(write_scan), tmp_path / "out"
    run(folder, out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("case_*")}
    (out / "case_3.json").unlink()
    result = run(folder, out)
    assert result.skipped == ["case_0", "case_1", "case_2", "case_4"]
    assert result.finished == ["case_3"]
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed == {"case_3.json", "case_3.lesions.csv", "case_3.nrrd"}


def test_without_skipping_everything_is_done_again(write_scan: WriteScan, tmp_path: Path) -> None:
    folder, out = write_scans(write_scan), tmp_path / "out"
    run(folder, out)
    assert len(run(folder, out, skip_finished=False).finished) == 5


def test_a_second_process_on_the_same_output_is_refused(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    folder, out = write_scans(write_scan), tmp_path / "out"
    with (
        folder_lock(out, purpose="infer-volume"),
        pytest.raises(InputError, match=r"is being written by pid \d+ \(infer-volume\)"),
    ):
        run(folder, out)


def test_leftovers_of_a_killed_process_are_removed(write_scan: WriteScan, tmp_path: Path) -> None:
    folder, out = write_scans(write_scan), tmp_path / "out"
    deep = out / "per_class" / "case_0"
    deep.mkdir(parents=True)
    for place in (out, deep):
        (place / f"{TEMPORARY_PREFIX}123-case_0.nii.gz").write_bytes(b"half a mask")
    run(folder, out)
    assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))


def test_a_scan_is_read_and_another_written_while_one_is_predicted(
    write_scan: WriteScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = threading.Event(), threading.Event()
    open_scan, predict_scan, write = batch.open_scan, batch.predict_scan, batch.write_prediction

    def opened(scan: Path, options: InferenceOptions) -> object:
        if scan.name.startswith("case_2"):
            reading.set()
        return open_scan(scan, options)

    def written(prediction: object, **options: object) -> object:
        if prediction.case.case_id == "case_0":  # type: ignore[attr-defined]
            writing.set()
        return write(prediction, **options)  # type: ignore[arg-type]

    def predicted(*args: object, case_id: str, **options: object) -> object:
        if case_id == "case_1":
            assert reading.wait(timeout=60)
            assert writing.wait(timeout=60)
        return predict_scan(*args, case_id=case_id, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "open_scan", opened)
    monkeypatch.setattr(batch, "predict_scan", predicted)
    monkeypatch.setattr(batch, "write_prediction", written)
    assert run(write_scans(write_scan), tmp_path / "out").failures == {}


@pytest.mark.parametrize("step", ["open_scan", "predict_scan", "write_prediction"])
def test_a_failure_in_any_step_is_that_of_its_case_alone(
    step: str, write_scan: WriteScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, calls = getattr(batch, step), itertools.count()

    def fails_twice(*args: object, **options: object) -> object:
        if next(calls) in (1, 3):
            raise OSError("the disk is gone")
        return done(*args, **options)

    monkeypatch.setattr(batch, step, fails_twice)
    result = run(write_scans(write_scan), tmp_path / "out")
    assert result.finished == ["case_0", "case_2", "case_4"]
    assert list(result.failures) == ["case_1", "case_3"]
    for case_id, message in result.failures.items():
        assert f"{case_id}." in message
        assert "unexpected OSError (the disk is gone)" in message
