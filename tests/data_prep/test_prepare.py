from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from raw_data import AFFINE, SHAPE, add_case, ct, label, save, write_nnunet

from data_prep.prepare import PrepareOptions, prepare
from data_prep.summary import Summary
from samcancer.cohort.executor import Executor
from samcancer.commands import run_verb
from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import INDEX_NAME, read_index_file, write_index
from samcancer.errors import InputError
from samcancer.files import folder_lock
from samcancer.taxonomy import load_taxonomy

SIZE = 16


def run(output: Path, *inputs: Path, **options: Any) -> Summary:
    settings: dict[str, Any] = {"size": SIZE, **options}
    return prepare(PrepareOptions(inputs=inputs, output=output, **settings), show_progress=False)


def raw_liver(folder: Path, count: int = 3) -> Path:
    return write_nnunet(folder / "Dataset901_Phantom_Liver", count)


def bytes_of(store: Path) -> dict[str, bytes]:
    """Everything but the summary, which holds times."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and p.name not in ("summary.json", ".lock")
    }


def test_a_store_holds_cases_labels_and_what_is_known(tmp_path: Path) -> None:
    summary = run(tmp_path / "store", raw_liver(tmp_path), class_set="phantom")
    store = CaseStore(tmp_path / "store")
    assert store.class_names == load_taxonomy().class_names("phantom")
    info = store.cases["case1"]
    assert info.annotated == ("liver_lesion",)
    assert store.annotated_bits("case1") == 0b0001
    assert info.voxels == {"liver_lesion": 3 * 7 * 8}
    assert info.volume_ml["liver_lesion"] == pytest.approx(168 * 0.9 * 0.8 * 3.0 / 1000)
    assert info.positive_slices == {"liver_lesion": [1, 2, 3]}
    assert summary.classes[0].lesions == 3
    assert (summary.prepared, summary.kept, summary.refused) == (3, 0, ())
    assert store.taxonomy().dataset("Phantom_Liver") == load_taxonomy().dataset("Phantom_Liver")


def test_the_default_classes_are_those_annotated_in_taxonomy_order(tmp_path: Path) -> None:
    liver = raw_liver(tmp_path, 1)
    kidney = write_nnunet(tmp_path / "Phantom_Kidney", 1, description={}, prefix="k")
    run(tmp_path / "store", kidney, liver)
    assert CaseStore(tmp_path / "store").class_names == ("liver_lesion", "kidney_lesion")


def test_the_pixels_lie_where_the_voxels_lay(tmp_path: Path) -> None:
    """A bright block in a corner stays in that corner, in HU, whatever the storage order."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[4, :11, :9] = 500  # top slice, anterior half, right half
    flipped = AFFINE.copy()
    flipped[:3, :3] *= -1
    folder = tmp_path / "Phantom_Liver"
    values = (hu > 0).astype(np.uint8)
    add_case(folder, "a", hu=hu, values=values)
    save(folder / "imagesTr" / "b_0000.nii.gz", hu[::-1, ::-1, ::-1], flipped)
    save(folder / "labelsTr" / "b.nii.gz", values[::-1, ::-1, ::-1], flipped)
    run(tmp_path / "store", folder)
    store = CaseStore(tmp_path / "store")
    for case_id in ("a", "b"):
        top = store.slices_hu(case_id, 4 + 2, 5 + 2)[0]
        assert top[4, 5] == 500
        assert top[12, 5] <= -1000
        assert store.label_bits(case_id, 4, 5)[0, 4, 5] == 1
        assert store.cases[case_id].positive_slices["liver_lesion"] == [4]
    np.testing.assert_array_equal(store.slices_hu("a", 0, 9), store.slices_hu("b", 0, 9))


def test_a_lesion_of_one_voxel_survives_any_shrinking(tmp_path: Path) -> None:
    folder = tmp_path / "Phantom_Liver"
    hu = np.zeros((3, 96, 80), np.int16) - 1000
    values = np.zeros(hu.shape, np.uint8)
    values[1, 41, 17] = 1
    add_case(folder, "tiny", hu=hu, values=values)
    run(tmp_path / "store", folder)
    store = CaseStore(tmp_path / "store")
    assert store.cases["tiny"].voxels == {"liver_lesion": 1}
    assert store.cases["tiny"].positive_slices == {"liver_lesion": [1]}
    assert (store.label_bits("tiny", 0, 3) == 1).sum() == 1


def test_background_an_unlabelled_case_is_unknown(tmp_path: Path) -> None:
    """[UM] inconsistency 3: what a set leaves out is not background."""
    folder = raw_liver(tmp_path, 1)
    add_case(folder, "bare")
    summary = run(tmp_path / "store", folder, class_set="phantom")
    store = CaseStore(tmp_path / "store")
    assert store.annotated_bits("bare") == 0
    assert store.cases["bare"].label_sha256 is None
    assert summary.datasets[0].unlabelled == 1
    # A labelled case leaves the other kinds of lesion unknown, too.
    assert store.annotated_bits("case0") == 0b0001


def test_organ_overlap_a_lesion_belongs_to_its_organ_as_well(tmp_path: Path) -> None:
    """[UM] inconsistency 4: one voxel can be of two classes."""
    folder = tmp_path / "Task03_Own"
    boxes = {
        1: (slice(1, 4), slice(4, 18), slice(4, 16)),
        2: (slice(2, 3), slice(8, 12), slice(8, 12)),
    }
    add_case(folder, "a", values=label(boxes))
    description = {"labels": {"background": 0, "liver": 1, "liver_lesion": 2}}
    (folder / "dataset.json").write_text(json.dumps(description))
    run(tmp_path / "store", folder)
    store = CaseStore(tmp_path / "store")
    assert store.class_names == ("liver", "liver_lesion")
    bits = store.label_bits("a", 2, 3)
    assert set(np.unique(bits)) == {0b00, 0b01, 0b11}
    assert store.cases["a"].voxels == {"liver": 3 * 14 * 12, "liver_lesion": 4 * 4}


def test_data_overlap_one_scan_in_two_sets_is_reported(tmp_path: Path) -> None:
    """[UM] inconsistency 5: the same scan in two data sets, here in two file formats."""
    liver = raw_liver(tmp_path, 2)
    kidney = tmp_path / "Phantom_Kidney"
    (kidney / "imagesTr").mkdir(parents=True)
    nib.save(nib.load(liver / "imagesTr" / "case1_0000.nii.gz"), kidney / "imagesTr" / "x.nii")
    summary = run(tmp_path / "store", liver, kidney)
    assert summary.shared_scans == (("case1", "x"),)


def test_preparing_again_keeps_what_is_there(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path), tmp_path / "store"
    run(store, raw)
    before = bytes_of(store)
    times = {p: p.stat().st_mtime_ns for p in store.glob("cases/*/*/*.h5")}
    summary = run(store, raw, verify=True)
    assert (summary.prepared, summary.kept) == (0, 3)
    assert bytes_of(store) == before
    assert {p: p.stat().st_mtime_ns for p in store.glob("cases/*/*/*.h5")} == times


@pytest.mark.usefixtures("_imported_once")
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    raw = raw_liver(tmp_path)
    run(tmp_path / "one", raw)
    run(tmp_path / "two", raw, executor=Executor(workers=2))
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_another_data_set_can_be_added_later(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(store, raw_liver(tmp_path, 1), class_set="phantom")
    kidney = write_nnunet(tmp_path / "Phantom_Kidney", 1, description={}, prefix="k")
    run(store, kidney, size=None)
    assert list(CaseStore(store).cases) == ["case0", "k0"]


def test_a_damaged_finished_case_is_prepared_again(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path), tmp_path / "store"
    run(store, raw)
    before = bytes_of(store)
    path = CaseStore(store).file_of("case1")
    path.write_bytes(path.read_bytes()[:-7])
    summary = run(store, raw)
    assert (summary.prepared, summary.kept) == (1, 2)
    assert bytes_of(store) == before


def test_a_finished_case_lost_together_with_its_scan_leaves_the_index(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path), tmp_path / "store"
    run(store, raw)
    whole, scan = bytes_of(store), raw / "imagesTr" / "case1_0000.nii.gz"
    CaseStore(store).file_of("case1").unlink()
    content = scan.read_bytes()
    scan.write_bytes(content[:-200])
    summary = run(store, raw)
    assert [r.case_id for r in summary.refused] == ["case1"]
    assert list(CaseStore(store).cases) == ["case0", "case2"]
    scan.write_bytes(content)
    run(store, raw)
    assert bytes_of(store) == whole


def test_a_damaged_line_of_the_index_is_made_again(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path), tmp_path / "store"
    run(store, raw)
    whole, index = bytes_of(store), store / "index.jsonl"
    index.write_bytes(
        index.read_bytes().replace(b'"patient_id": "case1"', b'"patient_id": "case2"')
    )
    summary = run(store, raw)
    assert (summary.prepared, summary.kept) == (1, 2)
    assert bytes_of(store) == whole


def test_a_changed_label_is_not_silently_ignored(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 2), tmp_path / "store"
    run(store, raw)
    save(raw / "labelsTr" / "case0.nii.gz", label({1: (slice(0, 1), slice(0, 3), slice(0, 3))}))
    summary = run(store, raw)
    assert [r.case_id for r in summary.refused] == ["case0"]
    assert "the label changed since case 'case0' was prepared" in summary.refused[0].fact
    CaseStore(store).file_of("case0").unlink()
    run(store, raw)
    assert CaseStore(store).cases["case0"].voxels == {"liver_lesion": 9}


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    for folder in (store, store / "cases"):
        folder.mkdir(exist_ok=True)
        (folder / ".tmp-0123-x.h5").write_bytes(b"half")
    run(store, raw)
    assert not list(store.rglob(".tmp-*"))


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    run(store, raw)
    before = bytes_of(store)
    with (
        folder_lock(store, purpose="prepare-slices"),
        pytest.raises(InputError, match=rf"store: is being written by pid {os.getpid()}"),
    ):
        run(store, raw)
    assert bytes_of(store) == before


def test_one_bad_case_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, store = raw_liver(tmp_path), tmp_path / "store"
    path = raw / "imagesTr" / "case1_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    words = ["--input", str(raw), "--output", str(store), "--size", "16", "--workers", "1"]
    assert run_verb("prepare-slices", [*words, "--quiet"]) == 1
    assert list(CaseStore(store).cases) == ["case0", "case2"]
    refused = [json.loads(line) for line in (store / "refused.jsonl").read_text().splitlines()]
    assert [(r["case_id"], r["file"]) for r in refused] == [("case1", "case1_0000.nii.gz")]
    summary = json.loads((store / "summary.json").read_text())
    assert (summary["prepared"], len(summary["refused"])) == (2, 1)
    assert "2 cases prepared, 0 kept, 1 refused" in capsys.readouterr().out
    save(path, ct(1))
    assert run_verb("prepare-slices", [*words, "--quiet"]) == 0
    assert (store / "refused.jsonl").read_text() == ""


def test_bad_usage_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--input", str(tmp_path / "nowhere"), "--output", str(tmp_path / "store"), "--quiet"]
    assert run_verb("prepare-slices", words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere: is neither a folder nor a .csv table" in error
    assert not (tmp_path / "store").exists()


def test_unknown_label_values_are_listed_with_counts(tmp_path: Path) -> None:
    boxes = {1: (slice(0, 1), slice(0, 2), slice(0, 2)), 5: (slice(2, 4), slice(5, 8), slice(6, 7))}
    folder = tmp_path / "Phantom_Liver"
    add_case(folder, "a", values=label(boxes))
    add_case(folder, "b", values=label(), hu=ct(2))
    summary = run(tmp_path / "store", folder)
    assert [r.case_id for r in summary.refused] == ["a"]
    assert "label values that Phantom_Liver does not have: 5 (6 voxels)" in summary.refused[0].fact


def test_a_label_on_another_grid_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "Phantom_Liver"
    add_case(folder, "a", values=label())
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.5
    save(folder / "labelsTr" / "a.nii.gz", label(), shifted)
    refused = run(tmp_path / "store", folder).refused
    assert refused[0].file == "a.nii.gz"
    assert "corners" in refused[0].fact


def test_another_size_or_other_classes_need_another_folder(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    run(store, raw)
    with pytest.raises(InputError, match="holds slices of 16 pixels, --size is 32"):
        run(store, raw, size=32)
    with pytest.raises(InputError, match="holds the classes liver_lesion; now asked for"):
        run(store, raw, class_set="phantom")


def test_a_label_table_may_not_change_under_a_store(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    run(store, raw, class_set="phantom")
    table = tmp_path / "t.yaml"
    table.write_text("datasets:\n  Phantom_Liver: {labels: {1: liver_lesion, 2: kidney_lesion}}\n")
    with pytest.raises(InputError, match="cases of Phantom_Liver were read with another table"):
        run(store, raw, class_set="phantom", taxonomy=table)


def test_a_finished_store_survives_a_full_lack_of_new_cases(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    run(store, raw)
    before = bytes_of(store)
    shutil.rmtree(raw / "imagesTr")
    with pytest.raises(InputError, match="holds no imagesTr folder"):
        run(store, raw)
    assert bytes_of(store) == before


@pytest.mark.figure("names", "paths")
def test_nothing_kept_names_the_folders_of_the_raw_files(tmp_path: Path) -> None:
    """Folders often hold a patient's name; only case ids and file names go into a store."""
    raw = raw_liver(tmp_path / "CANARY^JANE", 2)
    path = raw / "imagesTr" / "case1_0000.nii.gz"
    path.write_bytes(b"")
    store = tmp_path / "store"
    run(store, raw)
    for path in store.rglob("*"):
        assert path.is_dir() or b"CANARY" not in path.read_bytes(), path


def test_a_store_of_the_first_version_is_brought_to_the_present_form(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 2), tmp_path / "store"
    run(store, raw)
    path = store / "store.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 1'))
    before = bytes_of(store)
    summary = run(store, raw)
    assert summary.kept == 2
    assert json.loads(path.read_text())["format_version"] == 2
    assert {p: b for p, b in bytes_of(store).items() if p != "store.json"} == {
        p: b for p, b in before.items() if p != "store.json"
    }


def test_a_damaged_case_of_the_first_version_keeps_its_place(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    run(store, raw)
    (info,) = read_index_file(store / INDEX_NAME)
    good = (store / info.file).read_bytes()
    (store / info.file).unlink()
    old = store / "cases" / "case0.h5"
    old.write_bytes(b"damaged")
    write_index(store, [dataclasses.replace(info, file="cases/case0.h5")])
    run(store, raw)
    assert old.read_bytes() == good
    assert [p.name for p in store.glob("cases/**/*.h5")] == ["case0.h5"]


def test_preparing_into_a_list_of_stores_is_refused(tmp_path: Path) -> None:
    raw, store = raw_liver(tmp_path, 1), tmp_path / "store"
    store.mkdir()
    (store / "stores.json").write_text('{"format_version": 1, "stores": ["../x"]}')
    with pytest.raises(InputError, match="stands for stores elsewhere"):
        run(store, raw)
    assert not (store / "store.json").exists()
