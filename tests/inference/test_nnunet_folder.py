from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from inference_fakes import WriteScan, bright_box, lesion_in_organ

from samcancer.inference.batch import BatchResult, find_scans, segment_scans
from samcancer.inference.options import InferenceOptions


def run(folder: Path, output: Path, **options: bool) -> BatchResult:
    return segment_scans(
        find_scans([folder]),
        output,
        ensemble=lesion_in_organ(),
        options=InferenceOptions(**options),  # type: ignore[arg-type]
        skip_finished=True,
    )


def read(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_the_folder_says_its_labels_and_ending_as_nnunet_does(
    suffix: str, write_scan: WriteScan, tmp_path: Path
) -> None:
    folder = write_scan(f"in/liver_1_0000{suffix}", bright_box()).parent
    run(folder, tmp_path / "out")
    dataset = read(tmp_path / "out" / "dataset.json")
    assert dataset["labels"] == {"background": 0, "organ": 1, "tumour": 2}
    assert dataset["file_ending"] == suffix
    assert dataset["channel_names"] == {"0": "CT"}
    assert read(tmp_path / "out" / "plans.json")["label_manager"] == "LabelManager"
    assert (tmp_path / "out" / f"liver_1{suffix}").is_file()


def test_merged_lesions_are_the_only_label(write_scan: WriteScan, tmp_path: Path) -> None:
    folder = write_scan("in/a.nii.gz", bright_box()).parent
    out = tmp_path / "out"
    run(folder, out)
    run(folder, out, merge_lesions=True)
    assert read(out / "dataset.json")["labels"] == {"background": 0, "lesion": 1}


def test_masks_of_two_formats_have_no_data_set_file(write_scan: WriteScan, tmp_path: Path) -> None:
    write_scan("in/a.nii.gz", bright_box())
    folder = write_scan("in/b.mha", bright_box()).parent
    run(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_data_set_file_of_others_stays_as_it_is(
    write_scan: WriteScan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = write_scan("in/a.nii.gz", bright_box()).parent, tmp_path / "out"
    out.mkdir()
    (out / "dataset.json").write_text('{"labels": {"background": 0, "spleen": 1}}')
    with caplog.at_level(logging.WARNING):
        run(folder, out)
    assert read(out / "dataset.json") == {"labels": {"background": 0, "spleen": 1}}
    assert "dataset.json is not ours and stays as it is" in caplog.text


def test_the_report_of_a_case_called_dataset_is_kept(write_scan: WriteScan, tmp_path: Path) -> None:
    folder, out = write_scan("in/dataset.nii.gz", bright_box()).parent, tmp_path / "out"
    run(folder, out)
    assert read(out / "dataset.json")["case"] == "dataset"
    assert run(folder, out).skipped == ["dataset"]


def test_a_run_in_which_every_scan_fails_says_nothing_of_labels(tmp_path: Path) -> None:
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.parent.mkdir()
    bad.write_bytes(b"")
    run(bad.parent, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
