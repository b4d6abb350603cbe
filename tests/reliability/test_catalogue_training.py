"""What training refuses, through train-fold, pseudo-label and train-final on tiny stores."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue import provokes
from harness import Command, Outcome, contents, good_scan, require_one_line, save_run
from real_store import SIZE, make_store

from samcancer.data.case_store import CaseStore
from samcancer.data.ledger import PseudoEntry, PseudoLabels, write_pseudo_case
from samcancer.data.store_index import write_index
from samcancer.files import write_sealed_json
from samcancer.training import step
from samcancer.training.checkpoint import read_checkpoint_meta

QUICK = [
    *("--set", f"model.image_size={SIZE}", "--set", "model.cnn_width=4", "--set", "folds=2"),
    *("--set", "train.samples_per_epoch=4", "--set", "train.batch_size=2"),
    *("--set", "pseudo_labels.min_teacher_dice=0"),
    *("--workers", "0", "--accelerator", "cpu", "--quiet"),
]


def train(command: Command, verb: str, store: Path, runs: Path, *more: object) -> Outcome:
    return command(verb, "--data", store, "--output", runs, *QUICK, *more)


def train_fold(command: Command, folder: Path, *more: object) -> Outcome:
    return train(
        command,
        "train-fold",
        folder / "store",
        folder / "runs",
        "--fold",
        "0",
        "--epochs",
        1,
        *more,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A folder with a store, both folds' runs, and pseudo labels; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    store, runs = folder / "store", folder / "runs"
    make_store(store)
    for fold in ("0", "1"):
        words = ("--fold", fold, "--epochs", "1")
        assert train(command, "train-fold", store, runs, *words).status == 0
    assert label(command, folder).status == 0
    return folder


def label(command: Command, folder: Path) -> Outcome:
    words = ["--data", folder / "store", "--runs", folder / "runs", "--device", "cpu", "--quiet"]
    return command("pseudo-label", *words)


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def require_nothing_made(outcome: Outcome, folder: Path, *, fact: str, mend: str) -> None:
    """Demand status 2, one line about the store, and no run."""
    assert outcome.status == 2
    require_one_line(outcome.lines, folder / "store", fact=fact, mend=mend)
    assert not list(folder.glob("runs/*/*"))


NOTHING_COUNTED: dict[str, Any] = {
    name: {} for name in ("voxels", "volume_ml", "lesions", "positive_slices")
}


def relabelled(folder: Path, **changes: Any) -> None:
    """Make a store whose index says something else of every case."""
    store = make_store(folder / "store")
    write_index(store.folder, [dataclasses.replace(c, **changes) for c in store.cases.values()])


@provokes("nothing to learn", "empty")
def test_an_empty_store_is_one_line(tmp_path: Path, command: Command) -> None:
    store = make_store(tmp_path / "store")
    write_index(store.folder, [])
    outcome = train_fold(command, tmp_path)
    require_nothing_made(outcome, tmp_path, fact="holds no case", mend="prepare-slices")


@provokes("nothing to learn", "no positives")
def test_a_store_without_any_lesion_is_one_line(tmp_path: Path, command: Command) -> None:
    relabelled(tmp_path, positive_slices={})
    outcome = train_fold(command, tmp_path)
    fact = "none of the 4 training cases holds a labelled voxel"
    require_nothing_made(outcome, tmp_path, fact=fact, mend="prepare cases with labels")


@provokes("nothing to learn", "all unlabelled")
def test_a_store_without_any_label_is_one_line(tmp_path: Path, command: Command) -> None:
    relabelled(tmp_path, annotated=(), **NOTHING_COUNTED)
    outcome = train_fold(command, tmp_path)
    fact = "none of the 4 training cases annotates any class"
    require_nothing_made(outcome, tmp_path, fact=fact, mend="prepare cases with labels")


@provokes("nothing to learn", "class never annotated")
def test_a_class_that_nobody_annotated_is_one_warning(tmp_path: Path, command: Command) -> None:
    store = make_store(tmp_path / "store", healthy=0)
    write_index(store.folder, [c for name, c in store.cases.items() if "kidney" not in name])
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 0
    expected = "warning: no training case annotates kidney_lesion: not learned"
    assert [line for line in outcome.lines if "annotates" in line] == [expected]


@provokes("resume", "missing")
def test_a_missing_resume_file_is_one_line_and_never_a_fresh_start(
    tmp_path: Path, command: Command
) -> None:
    make_store(tmp_path / "store")
    outcome = train_fold(command, tmp_path, "--resume")
    assert outcome.status == 2
    path = tmp_path / "runs" / "fold_0" / "resume.pt"
    require_one_line(outcome.lines, path, fact="no state to resume from", mend="leave out --resume")
    assert not list(path.parent.glob("best*"))


def test_a_damaged_resume_file_is_one_line_and_stays(runs: Path, command: Command) -> None:
    path = runs / "runs" / "fold_0" / "resume.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    before = contents(runs / "runs")
    outcome = train_fold(command, runs, "--resume")
    assert outcome.status == 2
    require_one_line(outcome.lines, path, fact="SHA-256 differs", mend="train anew")
    assert contents(runs / "runs") == before


@provokes("NaN loss", "stops")
def test_a_nan_loss_stops_names_the_cases_and_keeps_the_last_good_files(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "store")
    words = ["--fold", "0", "--epochs", "2", "--set", "train.validate_every=1"]
    fold = ("train-fold", tmp_path / "store", tmp_path / "runs", *words)
    assert train(command, *fold, "--stop-after-epochs", "1").status == 130
    before = contents(tmp_path / "runs")
    sound = step.loss_of

    def poisoned(*arguments: Any, **options: Any) -> Any:
        parts = sound(*arguments, **options)
        return parts._replace(total=parts.total * float("nan"))

    monkeypatch.setattr(step, "loss_of", poisoned)
    outcome = train(command, *fold, "--resume")
    assert outcome.status == 2
    fact = r"not finite at epoch 2, step 3, in a batch of the cases \w+_\d"
    folder = tmp_path / "runs" / "fold_0"
    require_one_line(outcome.lines, folder, fact=fact, mend="--resume goes on")
    after = contents(tmp_path / "runs")
    kept = ["best.json", "best.safetensors", "last.json", "last.safetensors", "resume.pt"]
    assert {n: after[f"fold_0/{n}"] for n in kept} == {n: before[f"fold_0/{n}"] for n in kept}
    monkeypatch.setattr(step, "loss_of", sound)
    assert train(command, *fold, "--resume").status == 0


@provokes("leakage", "patient in two folds")
def test_a_patient_on_both_sides_is_one_line(runs: Path, command: Command) -> None:
    store = CaseStore(runs / "store")
    first, second = (store.cases[f"liver_lesion_{n}"] for n in (0, 1))
    twin = dataclasses.replace(second, content_sha256=first.content_sha256)
    cases = {**store.cases, "liver_lesion_1": twin}
    write_index(store.folder, list(cases.values()))
    path = runs / "runs" / "folds.json"
    folds = json.loads(path.read_text())
    folds["fold_of_patient"][first.patient_id], folds["fold_of_patient"][second.patient_id] = 0, 1
    path.write_text(json.dumps(folds))
    outcome = train(command, "train-final", runs / "store", runs / "runs", "--epochs", 1)
    assert outcome.status == 2
    fact = "share a scan and are in different folds"
    require_one_line(outcome.lines, path, fact=fact, mend="train again")


@provokes("leakage", "teacher saw the patient")
def test_a_teacher_of_another_fold_is_one_line(runs: Path, command: Command) -> None:
    for name in ("best.json", "best.safetensors"):
        shutil.copyfile(runs / "runs" / "fold_1" / name, runs / "runs" / "fold_0" / name)
    before = contents(runs / "runs")
    outcome = label(command, runs)
    assert outcome.status == 2
    folder = runs / "runs" / "fold_0"
    fact = "is the model of fold 1, not of fold 0"
    require_one_line(outcome.lines, folder, fact=fact, mend="run train-fold --fold 0")
    assert contents(runs / "runs") == before


@provokes("leakage", "teacher saw the patient")
def test_a_teacher_that_says_it_saw_the_patient_is_one_line(runs: Path, command: Command) -> None:
    folder = runs / "runs" / "fold_0"
    meta = read_checkpoint_meta(folder / "best")
    leaked = [*meta["training_patients"], *meta["held_out_patients"]]
    write_sealed_json(folder / "best.json", {**meta, "training_patients": leaked})
    outcome = label(command, runs)
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert "model of fold 0 trained on this patient and may not label it" in outcome.lines[0]


@provokes("leakage", "teacher saw the patient")
def test_pseudo_labels_of_such_a_teacher_are_one_line(runs: Path, command: Command) -> None:
    folder, store = runs / "runs" / "pseudo_labels", CaseStore(runs / "store")
    pseudo = PseudoLabels(folder, store)
    case_id = pseudo.case_ids[0]
    (entry,) = pseudo.entries(case_id)
    nothing = np.zeros((store.cases[case_id].slices, SIZE, SIZE), dtype=np.uint32)
    write_pseudo_case(
        folder / f"{case_id}.h5",
        case_id=case_id,
        label_bits=nothing,
        known_bits=nothing,
        entries=[PseudoEntry(entry.class_name, 1 - entry.teacher_fold, "0" * 64, 0.5)],
    )
    outcome = train(command, "train-final", runs / "store", runs / "runs", "--epochs", 1)
    assert outcome.status == 2
    path = folder / f"{case_id}.h5"
    require_one_line(outcome.lines, path, fact="trained on this patient", mend="pseudo-label again")
    assert not (runs / "runs" / "final" / "best.json").exists()


def require_model_refused(
    command: Command, folder: Path, model: Sequence[Path], *, named: Path, fact: str, mend: str
) -> None:
    """Demand status 2 and one line before any scan is segmented."""
    scan = good_scan(folder / "scan.nii.gz")
    words = ["--input", scan, "--output", folder / "out", "--device", "cpu", "--quiet"]
    outcome = command("infer-volume", *words, "--model", *model)
    assert outcome.status == 2
    require_one_line(outcome.lines, named, fact=fact, mend=mend)
    assert not list((folder / "out").iterdir())


@provokes("checkpoint", "corrupt")
@pytest.mark.parametrize("name", ["best.safetensors", "best.json"])
def test_a_flipped_bit_of_a_checkpoint_is_one_line(
    name: str, tmp_path: Path, command: Command
) -> None:
    run = save_run(tmp_path / "run")
    content = bytearray((run / name).read_bytes())
    content[-20] ^= 1
    (run / name).write_bytes(bytes(content))
    fact = "SHA-256 differs|was changed since it was written"
    require_model_refused(command, tmp_path, [run], named=run / name, fact=fact, mend="train again")


@provokes("checkpoint", "foreign")
def test_a_file_of_another_program_is_one_line(tmp_path: Path, command: Command) -> None:
    run = save_run(tmp_path / "run")
    (run / "best.json").write_text('{"model": "unet"}')
    named = run / "best.json"
    require_model_refused(
        command, tmp_path, [run], named=named, fact="not the JSON of a checkpoint", mend="train"
    )
    alone = (run / "best.safetensors").rename(tmp_path / "unet.safetensors")
    named = tmp_path / "unet.json"
    require_model_refused(command, tmp_path, [alone], named=named, fact="no such file", mend="path")


@provokes("checkpoint", "other configuration")
def test_tensors_of_another_configuration_are_one_line(tmp_path: Path, command: Command) -> None:
    run = save_run(tmp_path / "run")
    meta = read_checkpoint_meta(run / "best")
    meta["config"]["model"]["cnn_width"] = 8
    write_sealed_json(run / "best.json", meta)
    named = run / "best.safetensors"
    fact = r"is of another network: it has in another shape or type .* instead of"
    require_model_refused(command, tmp_path, [run], named=named, fact=fact, mend="train again")


def test_a_field_that_this_version_does_not_know_is_one_line(
    tmp_path: Path, command: Command
) -> None:
    run = save_run(tmp_path / "run")
    meta = read_checkpoint_meta(run / "best")
    meta["config"]["model"]["flux"] = 1
    write_sealed_json(run / "best.json", meta)
    named, fact = run / "best.json", "configuration of another version"
    require_model_refused(command, tmp_path, [run], named=named, fact=fact, mend="use samcancer")


@provokes("checkpoint", "other classes")
def test_models_of_other_classes_are_not_averaged(
    tmp_path: Path, command: Command, model: Path
) -> None:
    other = save_run(tmp_path / "other", classes=("lung_lesion",))
    fact = r"has classes \('lung_lesion',\), the first model has"
    require_model_refused(
        command, tmp_path, [model, other], named=other, fact=fact, mend="same classes"
    )


@provokes("checkpoint", "other classes")
def test_a_run_is_not_started_from_a_model_of_other_classes(
    tmp_path: Path, command: Command
) -> None:
    make_store(tmp_path / "store")
    other = save_run(tmp_path / "other", classes=("lung_lesion",))
    outcome = train_fold(command, tmp_path, "--start-from", other)
    assert outcome.status == 2
    fact = "knows the class 'lung_lesion', which this store does not have"
    require_one_line(outcome.lines, other, fact=fact, mend="among the store's")
    assert not list((tmp_path / "runs").glob("*/*"))


@provokes("checkpoint", "other configuration")
def test_a_run_is_not_resumed_with_another_configuration(runs: Path, command: Command) -> None:
    before = contents(runs / "runs")
    outcome = train_fold(command, runs, "--resume", "--set", "train.learning_rate=1e-5")
    assert outcome.status == 2
    path = runs / "runs" / "config.yaml"
    fact = r"another configuration \(train\.learning_rate is"
    require_one_line(outcome.lines, path, fact=fact, mend="--output")
    assert contents(runs / "runs") == before


def test_an_epoch_of_a_damaged_store_is_one_line(tmp_path: Path, command: Command) -> None:
    store = make_store(tmp_path / "store")
    for case in store.cases.values():
        path = store.folder / case.file
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        path.write_bytes(bytes(content))
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 2
    cases = tmp_path / "store" / "cases"
    fact = "the file is damaged"
    require_one_line(outcome.lines, cases, fact=fact, mend="run prepare-slices again")
    assert not list((tmp_path / "runs").glob("fold_0/best*"))
