"""DICOM series, most of them faulty, each between two good scans through infer-volume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from catalogue import provokes
from harness import Command, infer, names_in, require_refused
from test_dicom_series import (
    CANARY,
    FAULTS,
    OTHER_SERIES,
    SLICES,
    ct_slice,
    hu_of,
    save,
    slice_path,
    with_canaries,
    write_series,
)
from volume_fakes import save_by_itk

ROWS = {
    "missing slice": ("DICOM gap", "inside"),
    "double slice": ("DICOM series", "double slice"),
    "two series": ("DICOM series", "two series"),
    "gantry tilt": ("DICOM series", "gantry tilt"),
    "0 bytes": ("DICOM series", "0 bytes"),
    "cut in the pixels": ("DICOM series", "cut"),
    "undecodable": ("DICOM series", "compressed"),
}
"""Fault -> row and variant of the catalogue; the other faults are more of the same."""

SCANS = {fault: how for fault, how in FAULTS.items() if fault != "empty folder"}
"""An empty folder is no scan but a wrong argument."""

PARAMETERS = [
    pytest.param(
        fault,
        id=fault.replace(" ", "-"),
        marks=[provokes(ROWS[fault][0], ROWS[fault][1])] if fault in ROWS else [],
    )
    for fault in SCANS
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fault -> a series that has it, each in a folder with a name of its own."""
    made = {}
    for number, (fault, (make, *_)) in enumerate(SCANS.items()):
        made[fault] = tmp_path_factory.mktemp("faulty") / f"series_{number}"
        make(made[fault])
    return made


@pytest.mark.parametrize("fault", PARAMETERS)
def test_the_faulty_series_is_one_line_among_good_scans_and_alone(
    fault: str, faulty: dict[str, Path], batch_lines: list[str], command: Command, model: Path
) -> None:
    _, fact, mend = FAULTS[fault]
    lines = require_refused(command, faulty[fault], model, fact=fact, mend=mend)
    assert lines[0] in batch_lines


def test_an_empty_folder_is_one_line_before_any_scan_is_done(
    tmp_path: Path, command: Command, model: Path
) -> None:
    (tmp_path / "ct").mkdir()
    require_refused(command, tmp_path / "ct", model, fact="DICOM file", mend="another folder")


@provokes("not HU", "DICOM")
def test_a_series_without_its_intercept_is_one_line(
    tmp_path: Path, command: Command, model: Path
) -> None:
    series = write_series(tmp_path / "ct", lambda z: {"RescaleIntercept": 0})
    require_refused(command, series, model, fact="not in HU", mend="rescale intercept")


@provokes("DICOM gap", "end")
def test_a_missing_end_is_a_warning_in_the_report(
    tmp_path: Path, command: Command, model: Path
) -> None:
    series = write_series(tmp_path / "ct", lambda z: {"ImagesInAcquisition": SLICES})
    slice_path(series, SLICES - 1).unlink()
    assert infer(command, [series], tmp_path / "out", model).status == 0
    told = json.loads((tmp_path / "out" / "ct.json").read_text())["warnings"]
    assert "5 slices of an acquisition of 6: an end may be missing" in told


@provokes("DICOM series", "localizer")
def test_a_localizer_is_left_out_and_the_report_says_so(
    tmp_path: Path, command: Command, model: Path
) -> None:
    series = write_series(tmp_path / "ct")
    flat = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SOPInstanceUID": "1.2.3"}
    save(series / "scout.dcm", ct_slice(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **flat))
    assert infer(command, [series], tmp_path / "out", model).status == 0
    told = json.loads((tmp_path / "out" / "ct.json").read_text())["warnings"]
    assert "other files in the folder were left out: 1 localizer" in told


@provokes("DICOM series", "slope of each slice")
def test_every_slice_has_its_own_rescale(tmp_path: Path, command: Command, model: Path) -> None:
    stored, z = hu_of() + 1024, np.arange(SLICES)[:, None, None]
    plain = save_by_itk(tmp_path / "plain.nii.gz", (stored * (1 + z) - 1000 - z).astype(np.int16),
                        spacing_mm=(0.6, 0.8, 2.5))  # fmt: skip
    series = write_series(
        tmp_path / "ct", lambda z: {"RescaleSlope": 1 + z, "RescaleIntercept": -1000 - z}
    )
    assert infer(command, [plain, series], tmp_path / "out", model).status == 0
    masks = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / name)))
        for name in ("plain.nii.gz", "ct.nii.gz")
    ]
    np.testing.assert_array_equal(*masks)


@provokes("PHI", "DICOM tags")
@pytest.mark.parametrize("changes", [{}, {"ImagePositionPatient": None}, {"PixelData": None}])
def test_what_identifies_a_patient_reaches_no_output_and_no_line(
    changes: dict[str, None], tmp_path: Path, command: Command, model: Path
) -> None:
    series = tmp_path / "ct"
    series.mkdir()
    for z in range(SLICES):
        save(series / f"{z}.dcm", with_canaries(ct_slice(z, **changes)))
    extras = ("--per-class", "--probabilities")
    outcome = infer(command, [series], tmp_path / "out", model, *extras)
    assert outcome.status == (2 if changes else 0)
    told = [outcome.out, *outcome.lines, *names_in(tmp_path / "out")]
    told += [p.read_bytes().decode("latin-1") for p in (tmp_path / "out").rglob("*") if p.is_file()]
    for canary in (CANARY, "19700101", "054Y"):
        assert not any(canary in text for text in told)


CLASS_FILES = ("liver_lesion", "kidney_lesion")

PATH_LIKE = ("../../../escaped", "/tmp/escaped", "..", "a/b", "\\escaped")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", PATH_LIKE)
def test_identifiers_that_look_like_paths_name_no_file(
    uid: str, tmp_path: Path, command: Command, model: Path
) -> None:
    series = tmp_path / "in" / "ct"
    series.mkdir(parents=True)
    changes = {"SeriesInstanceUID": uid, "FrameOfReferenceUID": uid, "PatientID": uid}
    for z in range(SLICES):
        content = ct_slice(z, **changes, StudyInstanceUID=uid, AccessionNumber=uid)
        save(series / f"{z}.dcm", content)
    before = names_in(tmp_path)
    outcome = infer(command, [series], tmp_path / "out", model, "--per-class")
    assert outcome.status == 0, outcome.lines
    made = names_in(tmp_path) - before
    assert {name.split("/")[0] for name in made} == {"out"}
    assert {name.split(".")[0].split("/")[-1] for name in made} == {
        "ct",
        "dataset",
        "plans",
        *CLASS_FILES,
        "",
    }


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_series_is_chosen_by_its_uid_alone(tmp_path: Path, command: Command, model: Path) -> None:
    series = write_series(
        tmp_path / "ct", lambda z: {"SeriesInstanceUID": "../up" if z < 3 else OTHER_SERIES}
    )
    outcome = infer(command, [series], tmp_path / "out", model)
    assert outcome.status == 2
    assert "../up (3 slices" in outcome.lines[0]
    assert names_in(tmp_path / "out") == set()
