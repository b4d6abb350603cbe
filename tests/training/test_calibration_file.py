"""A calibration comes back as it was written, for its own model, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samcancer.errors import InputError
from samcancer.training.calibration_file import (
    CALIBRATION_NAME,
    ClassThresholds,
    read_calibration,
    write_calibration,
)

MODEL = "a" * 64
CLASSES = {
    "liver_lesion": ClassThresholds(presence=0.35, probability=0.7, min_volume_ml=0.2),
    "lung_lesion": ClassThresholds(presence=0.5, probability=0.5, min_volume_ml=0.0),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_calibration(
        tmp_path, model_sha256=MODEL, classes=CLASSES, max_fp_scans=0.05, figures={"n": 3}
    )
    return tmp_path


def test_what_was_written_comes_back(run: Path) -> None:
    found = read_calibration(run, model_sha256=MODEL)
    assert found is not None
    assert found.classes == CLASSES
    assert found.max_fp_scans == 0.05
    content = json.loads((run / CALIBRATION_NAME).read_text())
    assert content["n"] == 3
    assert found.sha256 == content["json_sha256"]


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    assert read_calibration(tmp_path, model_sha256=MODEL) is None


def test_one_of_other_weights_is_refused(run: Path) -> None:
    message = (
        r"calibration\.json: was fitted for other weights than these\. Run calibrate again, or"
    )
    with pytest.raises(InputError, match=message):
        read_calibration(run, model_sha256="b" * 64)


def test_flipped_bits_are_refused_in_one_line(run: Path) -> None:
    path = run / CALIBRATION_NAME
    intact = path.read_bytes()
    for place in range(0, len(intact), 3):
        path.write_bytes(bytes([*intact[:place], intact[place] ^ 4, *intact[place + 1 :]]))
        with pytest.raises(InputError, match=r"calibration\.json: ") as caught:
            read_calibration(run, model_sha256=MODEL)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not the JSON of a calibration"),
        ('{"max_fp_scans": 0.1, "format": 9}', "calibration format 9, this version reads 1"),
    ],
)
def test_another_file_in_its_place_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / CALIBRATION_NAME).write_text(text)
    with pytest.raises(InputError, match=message):
        read_calibration(tmp_path, model_sha256=MODEL)
