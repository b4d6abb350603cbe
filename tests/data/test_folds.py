from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from reliability_figures import Tally
from small_store import case_info, write_store

from samcancer.data.case_store import CaseInfo, CaseStore
from samcancer.data.folds import load_or_create_folds, patient_groups, split_patients
from samcancer.data.ledger import require_unseen
from samcancer.errors import InputError


def cases_of(infos: list[CaseInfo]) -> dict[str, CaseInfo]:
    return {info.case_id: info for info in infos}


def random_table(rng: np.random.Generator) -> dict[str, CaseInfo]:
    """Scans of patients over data sets, some scans in two data sets, some patients with many."""
    patients = int(rng.integers(6, 30))
    infos = []
    for number in range(int(rng.integers(patients, 3 * patients))):
        shared = rng.random() < 0.15
        infos.append(
            case_info(
                f"case{number}",
                patient_id=f"p{rng.integers(patients)}" if number >= patients else f"p{number}",
                dataset=f"set{rng.integers(4)}",
                content=f"same scan {rng.integers(4)}" if shared else None,
                source=f"same file {rng.integers(4)}" if rng.random() < 0.1 else None,
            )
        )
    return cases_of(infos)


def assert_no_leak(cases: dict[str, CaseInfo], fold_of: dict[str, int], count: int) -> None:
    """No patient and no scan, by file or by voxels, is in two folds; teachers follow."""
    assert set(fold_of) == {info.patient_id for info in cases.values()}
    for key in ("patient_id", "source_sha256", "content_sha256"):
        sides: dict[str, set[int]] = {}
        for info in cases.values():
            sides.setdefault(getattr(info, key), set()).add(fold_of[info.patient_id])
        assert all(len(folds) == 1 for folds in sides.values())
    assert set(fold_of.values()) == set(range(count))


@pytest.mark.figure("leakage", "folds")
def test_no_patient_or_scan_is_on_both_sides_in_random_tables(tally: Tally) -> None:
    rng = np.random.default_rng(11)
    for seed in tally.trials():
        count = int(rng.integers(2, 6))
        cases = random_table(rng)
        while len(patient_groups(cases)) < count:
            cases = random_table(rng)
        assert_no_leak(cases, split_patients(cases, count=count, seed=seed), count)


@pytest.mark.figure("leakage", "teachers")
def test_only_the_teacher_of_the_own_fold_may_label_a_patient(tally: Tally) -> None:
    rng = np.random.default_rng(12)
    for seed in tally.trials():
        cases = random_table(rng)
        fold_of = split_patients(cases, count=2, seed=seed)
        for info in cases.values():
            for teacher in (0, 1):
                trained_on = [patient for patient, fold in fold_of.items() if fold != teacher]
                label = partial(
                    require_unseen,
                    info.patient_id,
                    trained_on,
                    case_id=info.case_id,
                    teacher_fold=teacher,
                )
                if fold_of[info.patient_id] == teacher:
                    label()
                else:
                    with pytest.raises(InputError, match="trained on this patient"):
                        label()


def test_every_data_set_is_spread_over_the_folds() -> None:
    infos = [case_info(f"{s}{n}", dataset=s) for s in ("A", "B", "C") for n in range(7)]
    fold_of = split_patients(cases_of(infos), count=5, seed=1)
    for dataset in ("A", "B", "C"):
        sizes = Counter(fold_of[i.patient_id] for i in infos if i.dataset == dataset)
        assert sorted(sizes.values()) == [1, 1, 1, 2, 2]  # 7 over 5
    total = Counter(fold_of.values())
    assert max(total.values()) - min(total.values()) <= 1


def test_patients_with_a_class_are_spread_over_the_folds() -> None:
    infos = [case_info(f"c{n}", annotated=("liver_lesion",), present=n % 4 == 0) for n in range(20)]
    for seed in range(10):
        fold_of = split_patients(cases_of(infos), count=5, seed=seed)
        positive = Counter(fold_of[i.patient_id] for i in infos if i.voxels["liver_lesion"])
        assert positive == dict.fromkeys(range(5), 1)
        assert Counter(fold_of.values()) == dict.fromkeys(range(5), 4)


def test_the_split_follows_from_the_seed() -> None:
    cases = cases_of([case_info(f"c{n}") for n in range(20)])
    first = split_patients(cases, count=5, seed=3)
    assert split_patients(dict(reversed(cases.items())), count=5, seed=3) == first
    assert split_patients(cases, count=5, seed=4) != first


def test_one_scan_in_two_data_sets_counts_as_one_patient() -> None:
    infos = [
        case_info("btcv1", patient_id="p1", content="scan"),
        case_info("amos9", patient_id="p9", content="scan", source="another file"),
        case_info("other", patient_id="p5"),
    ]
    assert patient_groups(cases_of(infos)) == [("p1", "p9"), ("p5",)]
    fold_of = split_patients(cases_of(infos), count=2, seed=0)
    assert fold_of["p1"] == fold_of["p9"] != fold_of["p5"]


def test_chains_of_shared_scans_end_in_one_group() -> None:
    infos = [
        case_info("a", patient_id="p1", content="x"),
        case_info("b", patient_id="p2", content="x"),
        case_info("c", patient_id="p2", source="y"),
        case_info("d", patient_id="p3", source="y"),
    ]
    assert patient_groups(cases_of(infos)) == [("p1", "p2", "p3")]


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    infos = [case_info(f"c{n}", patient_id=f"p{n // 2}") for n in range(8)]
    return CaseStore(write_store(tmp_path / "store", infos))


def test_training_and_held_out_cases_share_no_patient_and_miss_none(
    store: CaseStore, tmp_path: Path
) -> None:
    folds = load_or_create_folds(store, tmp_path / "folds.json", count=4, seed=0)
    held_out = [case for fold in range(4) for case in folds.held_out_cases(fold)]
    assert sorted(held_out) == list(store.cases)
    for fold in range(4):
        inside, outside = folds.held_out_cases(fold), folds.training_cases(fold)
        assert sorted(inside + outside) == list(store.cases)
        patients = {store.cases[c].patient_id for c in inside}
        assert patients.isdisjoint(store.cases[c].patient_id for c in outside)
        assert {folds.fold_of(p) for p in patients} == {fold}


def test_folds_are_written_once_and_reused_whatever_the_seed(
    store: CaseStore, tmp_path: Path
) -> None:
    path = tmp_path / "folds.json"
    first = load_or_create_folds(store, path, count=4, seed=0)
    content = path.read_bytes()
    again = load_or_create_folds(store, path, count=4, seed=99)
    assert [again.held_out_cases(f) for f in range(4)] == [
        first.held_out_cases(f) for f in range(4)
    ]
    assert path.read_bytes() == content


def test_another_number_of_folds_is_refused(store: CaseStore, tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    load_or_create_folds(store, path, count=4, seed=0)
    with pytest.raises(InputError, match=r"folds\.json: has 4 folds, the configuration 3"):
        load_or_create_folds(store, path, count=3, seed=0)


def test_fewer_patients_than_folds_are_refused(store: CaseStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="5 folds need at least 5 patients, the store has 4"):
        load_or_create_folds(store, tmp_path / "folds.json", count=5, seed=0)
    assert not (tmp_path / "folds.json").exists()


def test_folds_of_another_store_are_refused(store: CaseStore, tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    load_or_create_folds(store, path, count=4, seed=0)
    infos = [case_info(f"c{n}", patient_id=f"p{n}") for n in range(5)]
    grown = CaseStore(write_store(tmp_path / "grown", infos))
    with pytest.raises(InputError, match=r"1 patients of the store have no fold.*such as 'p4'"):
        load_or_create_folds(grown, path, count=4, seed=0)


def test_an_edited_split_that_parts_a_shared_scan_is_refused(tmp_path: Path) -> None:
    infos = [
        case_info("a", patient_id="p1", content="x"),
        case_info("b", patient_id="p2", content="x"),
        case_info("c", patient_id="p3"),
    ]
    store = CaseStore(write_store(tmp_path / "store", infos))
    path = tmp_path / "folds.json"
    load_or_create_folds(store, path, count=2, seed=0)
    content = json.loads(path.read_text())
    content["fold_of_patient"] = {"p1": 0, "p2": 1, "p3": 1}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="patients p1, p2 share a scan and are in different folds"):
        load_or_create_folds(store, path, count=2, seed=0)


def test_a_damaged_file_of_folds_is_refused(store: CaseStore, tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    path.write_text('{"count": 4}')
    with pytest.raises(InputError, match=r"folds\.json: is not a table of folds"):
        load_or_create_folds(store, path, count=4, seed=0)
