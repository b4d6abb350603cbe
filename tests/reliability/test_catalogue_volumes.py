"""Volume files that are doubtful or damaged, each between two good scans through infer-volume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from catalogue import provokes
from harness import Command, good_scan, infer, require_refused
from test_refused_volumes import REFUSED, SHEAR_2_DEGREES, sheared
from volume_fakes import SPACING_MM, nifti_header_of, phantom_hu, save_by_itk, save_nifti_with

HU = phantom_hu()

ROWS = {
    "sheared sform": ("sheared affine", "refused"),
    "sheared sform beside a valid qform": ("qform and sform", "sheared sform"),
    "qform and sform 1 mm apart": ("qform and sform", "apart"),
    "spacing 0": ("spacing", "0"),
    "spacing NaN": ("spacing", "NaN"),
    "NaN": ("voxel values", "NaN"),
    "infinite": ("voxel values", "infinite"),
    "beyond int16": ("voxel values", "beyond int16"),
    "rescaled beyond int16": ("rescale", "out of range"),
    "stored with an offset of 1024": ("not HU", "NIfTI"),
    "4-D": ("dimensions", "4-D"),
    "2-D": ("dimensions", "2-D"),
    "RGB": ("dimensions", "colour"),
    "truncated .nii.gz": ("damaged volume", "cut"),
    "0 bytes": ("damaged volume", "0 bytes"),
    "text": ("damaged volume", "text"),
    "another ending": ("damaged volume", "other ending"),
}
"""Fault -> row and variant of the catalogue; the other faults are more of the same."""

FAULTS = [
    pytest.param(
        fault,
        id=fault.replace(" ", "-"),
        marks=[provokes(ROWS[fault][0], ROWS[fault][1])] if fault in ROWS else [],
    )
    for fault in REFUSED
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fault -> a file that has it, each with a name of its own."""
    made = {}
    for number, (fault, (name, make, *_)) in enumerate(REFUSED.items()):
        folder = tmp_path_factory.mktemp("faulty")
        make(folder / name)
        made[fault] = (folder / name).rename(folder / f"fault_{number}{name.removeprefix('s')}")
    return made


@pytest.mark.parametrize("fault", FAULTS)
def test_the_faulty_volume_is_one_line_among_good_ones_and_alone(
    fault: str, faulty: dict[str, Path], batch_lines: list[str], command: Command, model: Path
) -> None:
    _, _, fact, mend = REFUSED[fault]
    lines = require_refused(command, faulty[fault], model, fact=fact, mend=mend)
    assert lines[0] in batch_lines


@provokes("damaged volume", "flipped")
@pytest.mark.parametrize("name", ["s.nii.gz", "s.mha", "s.nrrd"])
def test_a_flipped_bit_in_packed_voxels_is_one_line(
    name: str, tmp_path: Path, command: Command, model: Path
) -> None:
    faulty = good_scan(tmp_path / name)
    content = bytearray(faulty.read_bytes())
    content[-12] ^= 0x40  # within the packed data or its checksum
    faulty.write_bytes(bytes(content))
    fact = "damaged or cut short|holds more voxel bytes"
    require_refused(command, faulty, model, fact=fact, mend="re-copy")


@provokes("qform and sform", "choice")
@pytest.mark.parametrize("affine", ["qform", "sform"])
def test_a_chosen_affine_decides_and_the_mask_keeps_both(
    affine: str, tmp_path: Path, command: Command, model: Path
) -> None:
    scan = save_nifti_with(tmp_path / "s.nii.gz", HU, srow_z={3: 204.0})
    outcome = infer(command, [scan], tmp_path / "out", model, "--affine", affine)
    assert (outcome.status, outcome.lines) == (0, [])
    before, after = nifti_header_of(scan), nifti_header_of(tmp_path / "out" / "s.nii.gz")
    for field in ("qform_code", "sform_code", "qoffset_z", "srow_z"):
        assert np.array_equal(before[field], after[field])


@provokes("qform and sform", "both codes 0")
def test_a_scan_without_orientation_is_done_and_the_report_warns(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scan = save_nifti_with(tmp_path / "s.nii", HU, qform_code=0, sform_code=0)
    assert infer(command, [scan], tmp_path / "out", model).status == 0
    assert "gives no orientation" in report_of(tmp_path)["warnings"][0]
    assert nifti_header_of(tmp_path / "out" / "s.nii")["qform_code"] == 0


@provokes("sheared affine", "nearest rotation")
def test_a_sheared_scan_is_done_when_asked_and_the_mask_keeps_its_affine(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scan = tmp_path / "s.nii.gz"
    sheared(scan)
    assert infer(command, [scan], tmp_path / "out", model, "--nearest-rotation").status == 0
    mask = nifti_header_of(tmp_path / "out" / "s.nii.gz")
    assert mask["srow_x"][1] == pytest.approx(nifti_header_of(scan)["srow_x"][1])
    assert mask["srow_x"][1] == pytest.approx(SHEAR_2_DEGREES, abs=1e-6)


@provokes("sheared affine", "repaired when slight")
def test_a_slight_shear_is_repaired_and_the_report_says_so(
    tmp_path: Path, command: Command, model: Path
) -> None:
    slight = np.tan(np.deg2rad(0.1)) * SPACING_MM[1]
    scan = save_nifti_with(tmp_path / "s.nii", HU, qform_code=0, srow_x={1: slight})
    assert infer(command, [scan], tmp_path / "out", model).status == 0
    assert "sheared by 0.100 degrees were straightened" in report_of(tmp_path)["warnings"][0]


@provokes("voxel values", "nan-fill")
def test_nan_voxels_are_filled_when_asked(tmp_path: Path, command: Command, model: Path) -> None:
    values = HU.astype(np.float32)
    values[0, 1, 2] = np.nan
    scan = save_by_itk(tmp_path / "s.nii.gz", values)
    assert infer(command, [scan], tmp_path / "out", model, "--nan-fill", "-1000").status == 0
    assert (tmp_path / "out" / "s.nii.gz").is_file()


@provokes("rescale", "applied")
def test_a_rescaled_scan_gives_the_mask_of_its_hu(
    tmp_path: Path, command: Command, model: Path
) -> None:
    stored = ((HU + 1024) // 2).astype(np.int16)
    plain = save_by_itk(tmp_path / "plain.nii", (stored * 2 - 1024).astype(np.int16))
    scaled = save_nifti_with(tmp_path / "scaled.nii", stored, scl_slope=2.0, scl_inter=-1024.0)
    assert infer(command, [plain, scaled], tmp_path / "out", model).status == 0
    masks = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / name)))
        for name in ("plain.nii", "scaled.nii")
    ]
    np.testing.assert_array_equal(*masks)


@provokes("dimensions", "one point in time")
def test_a_fourth_dimension_of_length_one_is_no_fault(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scan = save_nifti_with(tmp_path / "s.nii.gz", HU, dim={0: 4, 4: 1})
    assert infer(command, [scan], tmp_path / "out", model).status == 0


def report_of(folder: Path) -> dict[str, list[str]]:
    report: dict[str, list[str]] = json.loads((folder / "out" / "s.json").read_text())
    return report
