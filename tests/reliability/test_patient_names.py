"""What identifies a patient, in DICOM tags and in paths, reaches no output and no log."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from reliability_figures import Tally
from small_run import save_run
from test_dicom_series import CANARY, IDENTIFYING_TAGS, ct_slice, save, with_canaries
from volume_fakes import save_by_itk

from samcancer.commands import run_verb
from samcancer.volume_io import read_ct

CANARIES = (CANARY, "19700101", "054Y")
"""What stands in the identifying tags: texts, dates, ages."""

LEAST_TAGS = 30


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A series full of canaries, below folders that are named after the patient."""
    folder = tmp_path / f"{CANARY}^JANE" / "case_7"
    folder.mkdir(parents=True)
    for z in range(6):
        save(folder / f"{z}.dcm", with_canaries(ct_slice(z)))
    return folder


def require_no_canary(text: str, where: str) -> None:
    assert [canary for canary in CANARIES if canary in text] == [], where


def require_clean(folder: Path) -> None:
    """Look through names and bytes of all files, and through what HDF5 files hold unpacked."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        require_no_canary(str(path.relative_to(folder)), "a name")
        require_no_canary(path.read_bytes().decode("latin-1"), path.name)
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                require_no_canary(repr(dict(file.attrs)), path.name)


def test_the_series_holds_canaries_in_as_many_tags_as_promised(series: Path) -> None:
    assert len(set(IDENTIFYING_TAGS)) >= LEAST_TAGS
    assert all(canary.encode() in (series / "0.dcm").read_bytes() for canary in CANARIES)


@pytest.mark.figure("names", "infer-volume")
@pytest.mark.parametrize("fault", ["none", "a slice is missing"])
def test_segmenting_a_series_names_nobody(
    fault: str,
    series: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if fault != "none":
        (series / "3.dcm").unlink()
    words = ["--input", str(series), "--output", str(tmp_path / "out"), "--device", "cpu"]
    with caplog.at_level(logging.INFO):
        status = run_verb("infer-volume", [*words, "--model", str(save_run(tmp_path / "run"))])
    assert status == (0 if fault == "none" else 2)
    if fault == "none":
        require_clean(tmp_path / "out")
    told = caplog.text + "".join(capfd.readouterr())
    given = str(series)  # a message names the file as the user gave it
    require_no_canary("".join(told.split()).replace(given, ""), "log")


@pytest.mark.figure("names", "prepare-slices")
@pytest.mark.parametrize("fault", ["none", "a slice is missing"])
def test_preparing_a_series_names_nobody(
    fault: str,
    series: Path,
    tmp_path: Path,
    measurement: Tally,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    label = tmp_path / f"{CANARY}^JANE" / "label.nii.gz"
    scan = read_ct(series)
    save_by_itk(label, (scan.hu > 0).astype(np.uint8), spacing_mm=scan.geometry.spacing_mm)
    if fault != "none":
        (series / "3.dcm").unlink()
    table, store = tmp_path / "table.csv", tmp_path / "store"
    table.write_text(
        "case,image,label,patient,dataset\n" + f"case_7,{series},{label},p1,Phantom_Liver\n"
    )
    words = ["--input", str(table), "--output", str(store), "--size", "16", "--workers", "1"]
    with caplog.at_level(logging.INFO):
        status = run_verb("prepare-slices", words)
    assert status == (0 if fault == "none" else 1)
    require_clean(store)
    require_no_canary(caplog.text + "".join(capfd.readouterr()), "log")
    measurement.measured = f"{len(set(IDENTIFYING_TAGS))} tags and a folder"
