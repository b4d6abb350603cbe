from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from damage import damaged_copies
from reliability_figures import Tally
from small_store import SIZE, SLICES, case_info, write_store

from samcancer.data.case_store import CaseStore, LabelState
from samcancer.data.ledger import (
    Ledger,
    PseudoEntry,
    PseudoLabels,
    require_unseen,
    write_pseudo_case,
)
from samcancer.errors import InputError

LIVER, KIDNEY, LUNG = 0b001, 0b010, 0b100
SHAPE = (SLICES, SIZE, SIZE)


def entry(name: str, fold: int = 2) -> PseudoEntry:
    return PseudoEntry(name, fold, "a" * 64, 0.75)


def write_pseudo(folder: Path, case_id: str, entries: list[PseudoEntry], seed: int = 9) -> None:
    rng = np.random.default_rng(seed)
    write_pseudo_case(
        folder / f"{case_id}.h5",
        case_id=case_id,
        label_bits=rng.integers(0, 8, SHAPE).astype(np.uint32),
        known_bits=rng.integers(0, 8, SHAPE).astype(np.uint32),
        entries=entries,
    )


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """One case annotates the liver lesion only, one nothing at all."""
    infos = [case_info("partial", annotated=("liver_lesion",)), case_info("bare", annotated=())]
    return CaseStore(write_store(tmp_path / "store", infos))


@pytest.fixture
def pseudo(store: CaseStore, tmp_path: Path) -> PseudoLabels:
    """The teacher labelled the liver and kidney lesions of the partial case."""
    write_pseudo(tmp_path, "partial", [entry("liver_lesion"), entry("kidney_lesion")])
    return PseudoLabels(tmp_path, store)


def test_without_pseudo_labels_only_annotated_classes_are_known(store: CaseStore) -> None:
    ledger = Ledger(store, None)
    labels, known = ledger.merged_bits("partial", 1, 4)
    np.testing.assert_array_equal(labels, store.label_bits("partial", 1, 4))
    assert (known == LIVER).all()
    assert ledger.presence_known_bits("partial") == LIVER


def test_an_unlabelled_case_is_unknown_not_background(store: CaseStore) -> None:
    ledger = Ledger(store, None)
    _, known = ledger.merged_bits("bare", 0, SLICES)
    assert (known == 0).all()
    assert {ledger.state("bare", name) for name in store.class_names} == {LabelState.UNKNOWN}


def test_states_tell_who_labelled_what(store: CaseStore, pseudo: PseudoLabels) -> None:
    ledger = Ledger(store, pseudo)
    assert ledger.state("partial", "liver_lesion") is LabelState.ANNOTATED
    assert ledger.state("partial", "kidney_lesion") is LabelState.PSEUDO
    assert ledger.state("partial", "lung_lesion") is LabelState.UNKNOWN
    assert ledger.presence_known_bits("partial") == LIVER | KIDNEY


def test_a_persons_label_wins_over_a_pseudo_label(store: CaseStore, pseudo: PseudoLabels) -> None:
    labels, known = Ledger(store, pseudo).merged_bits("partial", 0, SLICES)
    np.testing.assert_array_equal(labels & LIVER, store.label_bits("partial", 0, SLICES) & LIVER)
    assert (known & LIVER == LIVER).all()


def test_pseudo_labels_fill_in_what_no_person_annotated(
    store: CaseStore, pseudo: PseudoLabels
) -> None:
    labels, known = Ledger(store, pseudo).merged_bits("partial", 2, 6)
    np.testing.assert_array_equal(known & KIDNEY, pseudo.known_bits("partial", 2, 6) & KIDNEY)
    expected = pseudo.label_bits("partial", 2, 6) & pseudo.known_bits("partial", 2, 6) & KIDNEY
    np.testing.assert_array_equal(labels & KIDNEY, expected)


def test_bits_of_classes_without_an_entry_are_ignored(
    store: CaseStore, pseudo: PseudoLabels
) -> None:
    labels, known = Ledger(store, pseudo).merged_bits("partial", 0, SLICES)
    assert not (labels & LUNG).any()
    assert not (known & LUNG).any()


def test_cases_without_pseudo_labels_stay_as_they_are(
    store: CaseStore, pseudo: PseudoLabels
) -> None:
    assert pseudo.case_ids == ("partial",)
    assert pseudo.entries("bare") == ()
    assert not Ledger(store, pseudo).merged_bits("bare", 0, SLICES)[1].any()


def test_entries_come_back(pseudo: PseudoLabels) -> None:
    assert pseudo.entries("partial") == (entry("liver_lesion"), entry("kidney_lesion"))


def test_a_ledger_can_be_sent_to_a_worker(store: CaseStore, pseudo: PseudoLabels) -> None:
    ledger = Ledger(store, pseudo)
    expected = ledger.merged_bits("partial", 0, 3)
    again = pickle.loads(pickle.dumps(ledger)).merged_bits("partial", 0, 3)
    np.testing.assert_array_equal(again, expected)


def test_a_teacher_that_trained_on_the_patient_is_refused() -> None:
    with pytest.raises(InputError, match="'scan 7': the model of fold 3 trained on this patient"):
        require_unseen("p1", ["p0", "p1"], case_id="scan 7", teacher_fold=3)
    require_unseen("p2", ["p0", "p1"], case_id="scan 7", teacher_fold=3)


def test_pseudo_labels_of_another_store_are_refused(store: CaseStore, tmp_path: Path) -> None:
    write_pseudo(tmp_path, "stranger", [entry("liver_lesion")])
    with pytest.raises(InputError, match=r"stranger\.h5: the store has no case 'stranger'"):
        PseudoLabels(tmp_path, store)


def test_a_pseudo_label_file_under_another_name_is_refused(
    store: CaseStore, tmp_path: Path
) -> None:
    write_pseudo(tmp_path, "bare", [entry("liver_lesion")])
    (tmp_path / "bare.h5").rename(tmp_path / "partial.h5")
    with pytest.raises(InputError, match=r"partial\.h5: holds case 'bare'"):
        PseudoLabels(tmp_path, store)


def test_a_pseudo_label_of_a_class_the_store_lacks_is_refused(
    store: CaseStore, tmp_path: Path
) -> None:
    write_pseudo(tmp_path, "bare", [entry("spleen")])
    with pytest.raises(InputError, match=r"bare\.h5: labels 'spleen', which the store lacks"):
        PseudoLabels(tmp_path, store)


def test_unfinished_files_are_not_read_as_pseudo_labels(store: CaseStore, tmp_path: Path) -> None:
    (tmp_path / ".tmp-1234-bare.h5").write_bytes(b"half")
    assert PseudoLabels(tmp_path, store).case_ids == ()


def test_labelling_again_replaces_the_file_in_one_step(store: CaseStore, tmp_path: Path) -> None:
    write_pseudo(tmp_path, "bare", [entry("liver_lesion")])
    write_pseudo(tmp_path, "bare", [entry("lung_lesion", fold=4)])
    assert PseudoLabels(tmp_path, store).entries("bare") == (entry("lung_lesion", fold=4),)


@pytest.mark.figure("artefacts", "pseudo labels")
def test_flipped_bits_never_give_wrong_pseudo_labels(
    tally: Tally, store: CaseStore, tmp_path: Path
) -> None:
    write_pseudo(tmp_path, "bare", [entry("liver_lesion")])
    path = tmp_path / "bare.h5"
    expected = _everything(tmp_path, store)
    with damaged_copies(path) as copies:
        for seed in tally.trials():
            copies.flip_a_bit(seed)
            try:
                found: object = _everything(tmp_path, store)
            except InputError as error:
                found = error.path
            assert found in (expected, path)


def _everything(folder: Path, store: CaseStore) -> tuple[object, ...]:
    pseudo = PseudoLabels(folder, store)
    try:
        return (
            pseudo.entries("bare"),
            pseudo.label_bits("bare", 0, SLICES).tobytes(),
            pseudo.known_bits("bare", 0, SLICES).tobytes(),
        )
    finally:
        pseudo.close()


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence of liver_lesion is"):
        PseudoEntry("liver_lesion", 0, "a" * 64, confidence)
