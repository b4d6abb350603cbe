from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_store import CLASS_NAMES, case_arrays, case_info, write_store

from samcancer.data.case_store import CaseStore, is_store
from samcancer.data.folds import split_patients
from samcancer.data.remote_store import require_plain_store
from samcancer.data.store_index import StoreInfo, write_store_info
from samcancer.errors import InputError
from samcancer.taxonomy import PACKAGED_TAXONOMY


def make_store(folder: Path, *names: str) -> Path:
    write_store(folder, [case_info(name, dataset=f"Set of {folder.name}") for name in names])
    shutil.copy(PACKAGED_TAXONOMY, folder / "taxonomy.yaml")
    return folder


def join(folder: Path, *stores: str, **changes: object) -> Path:
    folder.mkdir()
    content = {"format_version": 1, "stores": list(stores), **changes}
    (folder / "stores.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    make_store(tmp_path / "disk one" / "x", "b", "d")
    make_store(tmp_path / "y", "a", "c")
    return join(tmp_path / "all", str(tmp_path / "disk one" / "x"), "../y")


def test_stores_on_several_disks_read_as_one(joined: Path, tmp_path: Path) -> None:
    store = CaseStore(joined)
    assert is_store(joined)
    assert list(store.cases) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(store.label_bits("d", 0, 3), case_arrays(1)[1][:3])
    np.testing.assert_array_equal(store.label_bits("a", 0, 3), case_arrays(0)[1][:3])
    assert store.file_of("a").is_relative_to(joined / ".." / "y")
    assert store.file_of("b").is_relative_to(tmp_path / "disk one")
    store.verify()
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.label_bits("b", 0, 3), store.label_bits("b", 0, 3))


def test_folds_go_over_all_stores(joined: Path) -> None:
    cases = CaseStore(joined).cases
    folds = split_patients(cases, count=2, seed=0)
    assert set(folds) == {info.patient_id for info in cases.values()}


def test_a_store_may_move_to_another_disk(joined: Path, tmp_path: Path) -> None:
    before = CaseStore(joined).fingerprint()
    shutil.move(tmp_path / "y", tmp_path / "z")
    shutil.rmtree(joined)
    join(joined, str(tmp_path / "z"), str(tmp_path / "disk one" / "x"))
    assert CaseStore(joined).fingerprint() == before


def test_a_case_of_two_stores_is_refused(joined: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "y")
    make_store(tmp_path / "y", "a", "b")
    with pytest.raises(InputError, match=r"holds case .b., which .*disk one/x holds too"):
        CaseStore(joined)


def test_stores_of_other_classes_are_refused(joined: Path, tmp_path: Path) -> None:
    write_store_info(tmp_path / "y", StoreInfo(CLASS_NAMES[:2], 16))
    with pytest.raises(InputError, match=r"y: holds 16 pixels of liver_lesion, kidney_lesion, "):
        CaseStore(joined)


def test_the_data_sets_of_all_stores_are_known(joined: Path, tmp_path: Path) -> None:
    path = tmp_path / "y" / "taxonomy.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["datasets"]["Only_Here"] = {"title": "x", "labels": {1: ["liver_lesion"]}}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    store = CaseStore(joined)
    assert store.taxonomy().dataset("Only_Here").labels == {1: ("liver_lesion",)}
    assert "Only_Here" in yaml.safe_load(store.taxonomy_yaml())["datasets"]


def test_a_class_that_means_two_things_is_refused(joined: Path, tmp_path: Path) -> None:
    path = tmp_path / "y" / "taxonomy.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["classes"]["liver_lesion"]["title"] = "something else"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with pytest.raises(InputError, match="means something else by class liver_lesion"):
        CaseStore(joined).taxonomy()


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"stores": []}, "names no stores"),
        ({"stores": "../y"}, "names no stores"),
        ({"stores": [1]}, "names no stores"),
        ({"stores": ["../y"], "format_version": 2}, "has format version 2"),
        ({"stores": ["../y", "../y/"]}, "names a store twice"),
        ({"stores": ["../nothing"]}, r"nothing: is not a case store"),
        ({"stores": ["../all"]}, "which joins stores itself"),
    ],
)
def test_a_list_that_is_none_is_refused(
    tmp_path: Path, changes: dict[str, object], fact: str
) -> None:
    make_store(tmp_path / "y", "a")
    with pytest.raises(InputError, match=fact):
        CaseStore(join(tmp_path / "all", **changes))


def test_nothing_is_prepared_into_a_list(joined: Path) -> None:
    with pytest.raises(InputError, match=r"stands for stores elsewhere \(stores\.json\)"):
        require_plain_store(joined)
