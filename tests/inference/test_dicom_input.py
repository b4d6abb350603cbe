"""DICOM trees, single files and a chosen series, from the command to the masks."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
from inference_fakes import WriteScan, bright_box, make_ensemble

from samcancer.commands import run_verb
from samcancer.errors import InputError
from samcancer.inference.batch import find_scans

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "volume_io"))

from series_fakes import OTHER_SERIES, SERIES, SLICES, ct_slice, hu_of, save, write_series

THRESHOLD_HU = 200
"""Of the fake network's only class."""


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble", lambda *_, **__: make_ensemble()
    )
    logging.getLogger().addHandler(logging.NullHandler())


def infer(output: Path, *words: str | Path) -> int:
    arguments = [*map(str, words), "--output", str(output), "--model", "run", "--device", "cpu"]
    return run_verb("infer-volume", ["--quiet", "--input", *arguments])


def results(output: Path) -> list[str]:
    return sorted(p.name for p in output.glob("*.nii.gz"))


def series_in(folder: Path, uid: str = SERIES, slices: int = SLICES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(slices):
        save(folder / f"{uid}_{z}.dcm", ct_slice(z, SeriesInstanceUID=uid))
    return folder


def shape_of(mask: Path) -> tuple[int, ...]:
    return tuple(sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).shape)


def test_a_tree_of_patients_gives_a_mask_for_each_series(tmp_path: Path) -> None:
    for name in ("anna/thin", "anna/thick", "bert"):
        series_in(tmp_path / "in" / name)
    assert infer(tmp_path / "out", tmp_path / "in") == 0
    assert results(tmp_path / "out") == ["anna_thick.nii.gz", "anna_thin.nii.gz", "bert.nii.gz"]


def test_files_of_one_series_are_one_case_named_after_their_folder(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "anna")
    series_in(folder, OTHER_SERIES, 3)
    files = sorted(folder.glob(f"{SERIES}_*"))
    assert infer(tmp_path / "out", *files) == 0
    assert results(tmp_path / "out") == ["anna.nii.gz"]
    assert shape_of(tmp_path / "out" / "anna.nii.gz") == hu_of().shape


def test_the_series_that_is_asked_for_is_segmented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = series_in(tmp_path / "anna")
    series_in(folder, OTHER_SERIES, 3)
    assert infer(tmp_path / "out", folder) == 2
    assert f"{OTHER_SERIES} (3 slices, axial, " in capsys.readouterr().err.replace("\n", " ")
    assert infer(tmp_path / "out", folder, "--series", OTHER_SERIES) == 0
    assert shape_of(tmp_path / "out" / "anna.nii.gz")[0] == 3


def test_a_finished_case_is_not_finished_for_another_series(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "anna")
    series_in(folder, OTHER_SERIES, 3)
    for uid, slices in ((SERIES, SLICES), (OTHER_SERIES, 3), (OTHER_SERIES, 3)):
        assert infer(tmp_path / "out", folder, "--skip-finished", "--series", uid) == 0
        assert shape_of(tmp_path / "out" / "anna.nii.gz")[0] == slices


def test_volumes_and_dicom_folders_side_by_side_are_all_taken_and_it_is_said(
    write_scan: WriteScan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan("in/scan_0000.nii.gz", bright_box())
    series_in(tmp_path / "in" / "anna")
    with caplog.at_level(logging.INFO):
        scans = find_scans([tmp_path / "in"])
    assert list(scans) == ["scan", "anna"]
    assert "1 volumes and 1 DICOM folders are taken" in caplog.text


def test_volumes_among_dicom_files_are_refused(write_scan: WriteScan, tmp_path: Path) -> None:
    write_scan("in/mask.nii.gz", bright_box())
    series_in(tmp_path / "in")
    with pytest.raises(InputError, match="holds 1 volumes among 6 DICOM files"):
        find_scans([tmp_path / "in"])


def test_folders_without_ct_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series_in(tmp_path / "in" / "ct")
    (tmp_path / "in" / "mr").mkdir()
    save(tmp_path / "in" / "mr" / "1.dcm", ct_slice(0, Modality="MR"))
    assert list(find_scans([tmp_path / "in"])) == ["ct"]
    assert "1 DICOM folders were left out: they hold no CT slices" in caplog.text


def test_a_folder_without_a_scan_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "in" / "mr").mkdir(parents=True)
    with pytest.raises(InputError, match=r"in: holds no \.nii\.gz, .* or DICOM file\. Name"):
        find_scans([tmp_path / "in"])
    save(tmp_path / "in" / "mr" / "1.dcm", ct_slice(0, Modality="MR"))
    with pytest.raises(InputError, match="DICOM file, and no CT in 1 DICOM folders"):
        find_scans([tmp_path / "in"])
    with pytest.raises(InputError, match=r"and nothing of the series 1\.2\.3 in 1 DICOM folders"):
        find_scans([tmp_path / "in"], series="1.2.3")


def test_a_folder_of_other_images_says_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "mr", lambda z: {"Modality": "MR"})
    assert infer(tmp_path / "out", tmp_path / "mr") == 2
    assert "no CT slices in DICOM, only 6 of modality MR" in capsys.readouterr().err


def test_what_was_left_out_stands_in_the_report(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "anna")
    save(folder / "scout.dcm", ct_slice(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert infer(tmp_path / "out", folder) == 0
    report = json.loads((tmp_path / "out" / "anna.json").read_text())
    assert "other files in the folder were left out: 1 localizer" in report["warnings"]


def test_the_mask_of_a_series_lies_on_its_grid(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    core = np.full(hu_of().shape, -1000)
    core[1:4, 2:6, 3:8] = 2 * THRESHOLD_HU
    write_series(folder, lambda z: {"PixelData": (core[z] + 1024).astype("<u2").tobytes()})
    assert infer(tmp_path / "out", folder, "--no-postprocess") == 0
    mask = sitk.ReadImage(str(tmp_path / "out" / "anna.nii.gz"))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    assert mask.GetSize() == image.GetSize()
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), atol=1e-4)
    values = sitk.GetArrayFromImage(mask)
    assert values[1:4, 3:5, 4:7].all()
    assert not values[[0, 4, 5]].any()
