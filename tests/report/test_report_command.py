"""``samcancer report`` from files to one page that asks for nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from samcancer.commands import run_verb
from samcancer.geometry import Geometry
from samcancer.volume_io import write_ct, write_labels

FLIPPED = Geometry(
    size_xyz=(40, 36, 9),
    spacing_mm=(0.9, 1.1, 4.0),
    origin_mm=(10.0, -20.0, 30.0),
    direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1),
)
LABELS = {"background": 0, "liver_lesion": 1, "lung_lesion": 2}


def write_study(root: Path) -> list[str]:
    """Write two patients, one healthy, with masks, scores and a training log; return arguments."""
    reference = np.zeros(FLIPPED.shape, dtype=np.uint8)
    reference[4, 10:20, 10:20] = 1
    healthy = np.zeros_like(reference)
    hu = np.full(FLIPPED.shape, 40, dtype=np.int16)
    for case_id, labels in (("sick", reference), ("well", healthy)):
        write_ct(root / "imagesTs" / f"{case_id}_0000.nii.gz", hu, FLIPPED)
        write_labels(root / "labelsTs" / f"{case_id}.nii.gz", labels, FLIPPED)
        write_labels(root / "masks" / f"{case_id}.nii.gz", np.roll(labels, 2, axis=2), FLIPPED)
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    folders = ["--reference", str(root / "labelsTs"), "--prediction", str(root / "masks")]
    scores = str(root / "scores")
    assert run_verb("evaluate", [*folders, "--output", scores, "--protocol", "nnunet"]) == 0
    run = root / "runs" / "fold_0"
    run.mkdir(parents=True)
    lines = [{"epoch": e, "loss": 1 / e, "validation": {"score": 0.1 * e}} for e in (1, 2, 3)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        *("--images", str(root / "imagesTs"), "--reference", str(root / "labelsTs")),
        *("--arm", "masked & <bold>", str(root / "masks"), scores),
        *("--run", "runs", str(root / "runs"), "--quiet"),
    ]


def test_the_page_holds_tables_curves_and_patients_and_asks_for_nothing(tmp_path: Path) -> None:
    arguments = write_study(tmp_path)
    page = tmp_path / "report.html"
    assert run_verb("report", ["--output", str(page), "--title", "Two", *arguments]) == 0
    text = page.read_text(encoding="utf-8")
    for wanted in ("<h1>Two</h1>", "Scores by class", "training loss", "sick", "well"):
        assert wanted in text
    assert "masked &amp; &lt;bold&gt;" in text
    references = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert all(value.startswith(("#", "data:image/webp;base64,")) for value in references)
    assert "http" not in text.replace("http-equiv", "")


def test_every_picture_that_is_used_is_defined_once(tmp_path: Path) -> None:
    arguments = write_study(tmp_path)
    page = tmp_path / "report.html"
    run_verb("report", ["--output", str(page), *arguments])
    text = page.read_text(encoding="utf-8")
    defined = re.findall(r'<image id="([^"]+)"', text)
    used = set(re.findall(r'<use href="#([^"]+)"', text))
    assert sorted(defined) == sorted(used)


def test_a_missing_mask_is_one_line_and_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_study(tmp_path)
    (tmp_path / "masks" / "sick.nii.gz").unlink()
    page = tmp_path / "report.html"
    assert run_verb("report", ["--output", str(page), *arguments]) == 2
    error = capsys.readouterr().err
    assert "masks: holds no volume of the case 'sick'" in error
    assert not page.exists()


def test_two_arms_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--images", "i", "--reference", "r", "--output", "o.html"]
    arms = ["--arm", "a", "m", "s", "--arm", "a", "m", "s"]
    assert run_verb("report", [*arguments, *arms]) == 2
    assert "two arms have the same name" in capsys.readouterr().err
