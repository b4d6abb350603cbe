"""Label maps that do not fit their scan or their table, through prepare-slices and evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from catalogue import provokes
from harness import (
    Command,
    contents,
    prepare,
    raw_cases,
    require_case_refused,
    require_one_line,
    require_store,
)
from raw_data import AFFINE, add_case, label, save

from samcancer.data.case_store import CaseStore

SHIFTED = AFFINE.copy()
SHIFTED[0, 3] = 1.5


@provokes("label grid", "prepare-slices")
def test_a_label_on_another_grid_is_one_line(tmp_path: Path, command: Command) -> None:
    raw = raw_cases(tmp_path)
    save(raw / "labelsTr" / "case1.nii.gz", label(), SHIFTED)
    require_case_refused(command, raw, "case1.nii.gz", fact=r"corners .*1\.5 mm", mend="resample")


@provokes("label grid", "evaluate")
def test_a_prediction_on_another_grid_is_one_line(tmp_path: Path, command: Command) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / "reference" / f"{name}.nii.gz", label())
        save(tmp_path / "masks" / f"{name}.nii.gz", label(), SHIFTED if name == "b" else AFFINE)
    words = ["--reference", tmp_path / "reference", "--prediction", tmp_path / "masks"]
    words += ["--output", tmp_path / "scores", "--labels", "liver_lesion=1", "--quiet"]
    outcome = command("evaluate", *words)
    assert outcome.status == 1
    faulty = tmp_path / "masks" / "b.nii.gz"
    require_one_line(outcome.lines, faulty, fact="corners", mend="resample")
    rows = (tmp_path / "scores" / "per_case.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} >= {"a", "c"}


@provokes("label values", "unknown")
def test_values_without_a_class_are_listed_with_their_counts(
    tmp_path: Path, command: Command
) -> None:
    raw = raw_cases(tmp_path)
    boxes = {1: (slice(0, 1), slice(0, 2), slice(0, 2)), 5: (slice(2, 4), slice(5, 8), slice(6, 7))}
    save(raw / "labelsTr" / "case1.nii.gz", label(boxes))
    fact = r"Phantom_Liver does not have: 5 \(6 voxels\)"
    require_case_refused(command, raw, "case1.nii.gz", fact=fact, mend="--taxonomy")


@provokes("label values", "fractions")
def test_values_between_whole_numbers_are_listed_with_their_counts(
    tmp_path: Path, command: Command
) -> None:
    raw = raw_cases(tmp_path)
    values = label().astype(np.float32)
    values[0, 0, :3] = (0.5, 0.5, 1.25)
    save(raw / "labelsTr" / "case1.nii.gz", values)
    fact = r"3 voxels are not whole numbers: 0\.5 \(2 x\), 1\.25 \(1 x\)"
    require_case_refused(command, raw, "case1.nii.gz", fact=fact, mend="without interpolation")


@provokes("label values", "integral floats")
def test_whole_numbers_stored_as_floats_give_the_same_store(
    tmp_path: Path, command: Command
) -> None:
    raw, store = raw_cases(tmp_path), tmp_path / "store"
    assert prepare(command, raw, store).status == 0
    save(raw / "labelsTr" / "case1.nii.gz", label().astype(np.float64))
    assert prepare(command, raw, tmp_path / "again").status == 0
    one, two = CaseStore(store), CaseStore(tmp_path / "again")
    assert one.cases["case1"].voxels == two.cases["case1"].voxels
    np.testing.assert_array_equal(one.label_bits("case1", 0, 5), two.label_bits("case1", 0, 5))


@provokes("label values", "above 255")
@pytest.mark.parametrize(("value", "fact"), [(300, r"300 \(1 voxels\)"), (70000, r"70000 \(1 x\)")])
def test_values_above_255_are_listed(
    value: int, fact: str, tmp_path: Path, command: Command
) -> None:
    raw = raw_cases(tmp_path)
    values = label().astype(np.int32)
    values[0, 0, 0] = value
    save(raw / "labelsTr" / "case1.nii.gz", values)
    require_case_refused(command, raw, "case1.nii.gz", fact=fact, mend="")


@provokes("unlabelled case", "unknown")
def test_an_unlabelled_case_is_unknown_and_not_background(tmp_path: Path, command: Command) -> None:
    raw = raw_cases(tmp_path)
    add_case(raw, "bare")
    assert prepare(command, raw, tmp_path / "store").status == 0
    store = CaseStore(tmp_path / "store")
    assert store.cases["bare"].annotated == ()
    assert store.annotated_bits("bare") == 0


def test_a_damaged_scan_of_a_data_set_is_one_line(tmp_path: Path, command: Command) -> None:
    raw = raw_cases(tmp_path)
    scan = raw / "imagesTr" / "case1_0000.nii.gz"
    scan.write_bytes(scan.read_bytes()[:-200])
    require_case_refused(command, raw, scan.name, fact="damaged or cut short", mend="re-copy")


@provokes("PHI", "folders")
def test_no_file_of_a_store_and_no_line_names_a_folder(tmp_path: Path, command: Command) -> None:
    raw = raw_cases(tmp_path / "CANARY^JANE")
    (raw / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"")
    outcome = prepare(command, raw, tmp_path / "store")
    assert outcome.status == 1
    require_one_line(outcome.lines, "case1_0000.nii.gz", fact="empty", mend="re-copy")
    assert "CANARY" not in outcome.out
    assert not [n for n, b in contents(tmp_path / "store").items() if b"CANARY" in b]
    require_store(tmp_path / "store", ["case0", "case2"])


def test_names_that_look_like_markup_are_shown_as_they_are(
    tmp_path: Path, command: Command
) -> None:
    raw = raw_cases(tmp_path, 1)
    add_case(raw, "a[red]b", values=label())
    (raw / "imagesTr" / "a[red]b_0000.nii.gz").write_bytes(b"")
    outcome = prepare(command, raw, tmp_path / "store")
    assert outcome.status == 1
    assert "a[red]b" in outcome.out
    require_one_line(outcome.lines, "a[red]b_0000.nii.gz", fact="empty", mend="re-copy")


@pytest.mark.parametrize("column", ["case", "patient"])
@pytest.mark.parametrize("text", ["../../escaped", "/tmp/escaped", "..", "a\\b"])
def test_a_table_cannot_name_a_file_outside_of_the_store(
    column: str, text: str, tmp_path: Path, command: Command
) -> None:
    raw, store = raw_cases(tmp_path, 1), tmp_path / "deep" / "er" / "store"
    image = f"{raw.name}/imagesTr/case0_0000.nii.gz"
    table = tmp_path / "table.csv"
    table.write_text(f"image,dataset,{column}\n{image},Phantom_Liver,{text}\n")
    before = set(tmp_path.rglob("*"))
    outcome = prepare(command, table, store, "--class-set", "phantom")
    if column == "case":
        assert outcome.status == 2
        assert f"{text!r} cannot be a case id" in outcome.lines[0]
        assert set(tmp_path.rglob("*")) == before
        return
    assert outcome.status == 0
    made = set(tmp_path.rglob("*")) - before
    assert made
    assert all(path.is_relative_to(tmp_path / "deep") for path in made)
    assert [info.patient_id for info in CaseStore(store).cases.values()] == [text]


def test_a_description_of_a_data_set_that_is_no_json_is_one_line(
    tmp_path: Path, command: Command
) -> None:
    raw = raw_cases(tmp_path, 1)
    for content in ("[" * 100_000, '{"labels": {"a": ' + "9" * 5000 + "}}", "{", "[1]"):
        (raw / "dataset.json").write_text(content)
        outcome = prepare(command, raw, tmp_path / "store")
        assert outcome.status == 2
        assert len(outcome.lines) == 1
        assert outcome.lines[0].startswith(f"error: {raw / 'dataset.json'}: ")
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver_lesion": 1}}))
    assert prepare(command, raw, tmp_path / "store").status == 0
