from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_store import CLASS_NAMES, SIZE, make_store

from samcancer.config import Config, DataConfig, ModelConfig, PseudoLabelConfig, TrainConfig
from samcancer.data.case_store import CaseStore
from samcancer.data.ledger import PseudoEntry, PseudoLabels, write_pseudo_case
from samcancer.data.store_index import CaseInfo, StoreInfo, write_index, write_store_info
from samcancer.errors import InputError
from samcancer.pretrained.text_embeddings import TextEmbeddings, write_text_embeddings
from samcancer.taxonomy import load_taxonomy
from samcancer.training.checkpoint import LoadedModel, load_checkpoint
from samcancer.training.pseudo_labels import label_voxels, trusted_classes, write_pseudo_labels
from samcancer.training.run import (
    RunOptions,
    require_disjoint,
    stored_config,
    train_final,
    train_fold,
)

FOLDS = 2


def quick_config(**train: Any) -> Config:
    return Config(
        model=ModelConfig(image_size=SIZE, cnn_width=4),
        data=DataConfig(workers=0),
        train=TrainConfig(
            **{"epochs": 1, "samples_per_epoch": 4, "batch_size": 2, "learning_rate": 1e-3, **train}
        ),
        pseudo_labels=PseudoLabelConfig(min_teacher_dice=0),  # one epoch makes no teacher
        folds=FOLDS,
    )


def options(store: Path, runs: Path, config: Config | None = None, **changes: Any) -> RunOptions:
    return RunOptions(
        store=store,
        output=runs,
        config=config or quick_config(),
        accelerator="cpu",
        show_progress=False,
        **changes,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store, and runs with both folds trained and pseudo labels written."""
    folder = tmp_path_factory.mktemp("trained")
    make_store(folder / "store")
    for fold in range(FOLDS):
        train_fold(options(folder / "store", folder / "runs"), fold=fold)
    write_pseudo_labels(folder / "store", folder / "runs", device="cpu", show_progress=False)
    return folder / "store", folder / "runs"


def test_a_fold_checkpoint_says_who_was_trained_on_and_who_was_held_out(
    trained: tuple[Path, Path],
) -> None:
    store = CaseStore(trained[0])
    everybody = {info.patient_id for info in store.cases.values()}
    for fold in range(FOLDS):
        meta = load_checkpoint(trained[1] / f"fold_{fold}").meta
        training, held_out = set(meta["training_patients"]), set(meta["held_out_patients"])
        assert not training & held_out
        assert training | held_out == everybody
        assert meta["fold"] == fold
        assert meta["store_fingerprint"] == store.fingerprint()
    first = set(load_checkpoint(trained[1] / "fold_0").meta["held_out_patients"])
    assert first == set(load_checkpoint(trained[1] / "fold_1").meta["training_patients"])


def test_configuration_and_folds_are_written_once(trained: tuple[Path, Path]) -> None:
    assert stored_config(trained[1]) == quick_config()
    with pytest.raises(InputError, match=r"config\.yaml.*train\.epochs is 1 there and 2 here"):
        train_fold(options(*trained, quick_config(epochs=2)), fold=0)


def test_the_number_of_workers_may_differ_between_folds(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    config = quick_config()
    train_fold(options(tmp_path / "store", tmp_path / "runs", config), fold=0)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=1))
    again = options(tmp_path / "store", tmp_path / "runs", other, resume=True)
    assert train_fold(again, fold=0).outcome == "finished"


def test_pseudo_labels_fill_unknown_classes_of_held_out_patients_only(
    trained: tuple[Path, Path],
) -> None:
    store = CaseStore(trained[0])
    pseudo = PseudoLabels(trained[1] / "pseudo_labels", store)
    assert set(pseudo.case_ids) == {name for name in store.cases if "lesion" in name}
    for case_id in pseudo.case_ids:
        info = store.cases[case_id]
        (entry,) = pseudo.entries(case_id)
        assert entry.class_name not in info.annotated
        teacher = load_checkpoint(trained[1] / f"fold_{entry.teacher_fold}")
        assert info.patient_id not in teacher.meta["training_patients"]
        assert entry.checkpoint_sha256 == teacher.sha256
        bit = 1 << CLASS_NAMES.index(entry.class_name)
        known = pseudo.known_bits(case_id, 0, info.slices)
        labels = pseudo.label_bits(case_id, 0, info.slices)
        assert set(np.unique(known)) <= {0, bit}
        assert np.all(labels & ~known == 0)


def test_a_second_call_writes_nothing_again_and_a_lost_case_once(
    trained: tuple[Path, Path],
) -> None:
    files = sorted((trained[1] / "pseudo_labels").glob("*.h5"))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    files[0].unlink()
    write_pseudo_labels(*trained, device="cpu", show_progress=False)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert {n: content for n, (content, _) in after.items()} == {
        n: content for n, (content, _) in before.items()
    }
    assert [n for n in after if after[n][1] != before[n][1]] == [files[0].name]


def test_the_final_run_trains_on_merged_labels_and_selects_on_fold_0(
    trained: tuple[Path, Path],
) -> None:
    result = train_final(options(*trained))
    assert result.outcome == "finished"
    meta = load_checkpoint(trained[1] / "final").meta
    fold_0 = load_checkpoint(trained[1] / "fold_0").meta
    assert meta["held_out_patients"] == fold_0["held_out_patients"]
    assert meta["fold"] is None
    assert meta["pseudo_labels_fingerprint"] is not None


def test_arms_without_pseudo_labels_need_no_folds(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    for name, unknown in (("masked", "masked"), ("background", "background")):
        arm = options(tmp_path / "store", tmp_path / "runs", quick_config(unknown_labels=unknown))
        train_final(arm, name=name, use_pseudo_labels=False)
        loaded = load_checkpoint(tmp_path / "runs" / name)
        assert loaded.config.train.unknown_labels == unknown
        assert loaded.meta["pseudo_labels_fingerprint"] is None


def write_text(folder: Path, class_names: Sequence[str]) -> tuple[Path, TextEmbeddings]:
    """Write made-up text embeddings of some classes."""
    embeddings = TextEmbeddings(
        tower="clip_vit_b_32",
        weights_sha256="0" * 64,
        template="own",
        class_names=tuple(class_names),
        prompts=tuple(class_names),
        vectors=np.eye(len(class_names), 6, dtype=np.float32),
    )
    path = folder / "text.safetensors"
    write_text_embeddings(path, embeddings)
    return path, embeddings


@pytest.mark.parametrize("kind", ["text", "both"])
def test_text_prompts_are_trained_and_loaded_without_the_embeddings(
    tmp_path: Path, kind: str
) -> None:
    make_store(tmp_path / "store")
    file, embeddings = write_text(tmp_path, CLASS_NAMES)
    model = dataclasses.replace(quick_config().model, class_prompt=kind, text_embeddings=str(file))
    config = dataclasses.replace(quick_config(), model=model)
    train_fold(options(tmp_path / "store", tmp_path / "runs", config), fold=0)
    file.unlink()
    loaded = load_checkpoint(tmp_path / "runs" / "fold_0")
    assert torch.equal(loaded.model.classes.text, torch.from_numpy(embeddings.vectors))  # type: ignore[union-attr]
    assert loaded.meta["text"] == {
        "tower": "clip_vit_b_32",
        "weights_sha256": "0" * 64,
        "template": "own",
        "dim": 6,
    }


def test_text_embeddings_without_a_class_of_the_store_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    file, _ = write_text(tmp_path, ("spleen",))
    model = dataclasses.replace(
        quick_config().model, class_prompt="text", text_embeddings=str(file)
    )
    config = dataclasses.replace(quick_config(), model=model)
    with pytest.raises(InputError, match=r"lack liver_lesion.*build-text-embeddings"):
        train_fold(options(tmp_path / "store", tmp_path / "runs", config), fold=0)


def test_without_a_held_out_fold_everybody_is_trained_on(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    config = quick_config(final_held_out_fold=None)
    train_final(options(tmp_path / "store", tmp_path / "runs", config), use_pseudo_labels=False)
    meta = load_checkpoint(tmp_path / "runs" / "final").meta
    assert set(meta["training_patients"]) == {i.patient_id for i in store.cases.values()}
    assert meta["held_out_patients"] == []


def test_the_final_run_without_pseudo_labels_says_what_to_do(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with pytest.raises(InputError, match=r"no pseudo labels.*--no-pseudo"):
        train_final(options(tmp_path / "store", tmp_path / "runs"))


def test_pseudo_labels_of_a_teacher_that_saw_the_patient_are_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store = CaseStore(trained[0])
    runs = tmp_path / "runs"
    (runs / "pseudo_labels").mkdir(parents=True)
    (runs / "folds.json").write_bytes((trained[1] / "folds.json").read_bytes())
    pseudo = PseudoLabels(trained[1] / "pseudo_labels", store)
    case_id = pseudo.case_ids[0]
    (entry,) = pseudo.entries(case_id)
    nothing = np.zeros((store.cases[case_id].slices, SIZE, SIZE), dtype=np.uint32)
    write_pseudo_case(
        runs / "pseudo_labels" / f"{case_id}.h5",
        case_id=case_id,
        label_bits=nothing,
        known_bits=nothing,
        entries=[PseudoEntry(entry.class_name, 1 - entry.teacher_fold, "0" * 64, 0.5)],
    )
    with pytest.raises(InputError, match="which trained on this patient"):
        train_final(options(trained[0], runs))


def test_a_teacher_of_another_fold_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("config.yaml", "folds.json"):
        (runs / name).write_bytes((trained[1] / name).read_bytes())
    for fold in range(FOLDS):
        (runs / f"fold_{fold}").mkdir()
        for name in ("best.json", "best.safetensors"):
            content = (trained[1] / f"fold_{1 - fold}" / name).read_bytes()
            (runs / f"fold_{fold}" / name).write_bytes(content)
    with pytest.raises(InputError, match="is the model of fold 1, not of fold 0"):
        write_pseudo_labels(trained[0], runs, device="cpu", show_progress=False)


def test_missing_teachers_are_named(trained: tuple[Path, Path], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="holds no fold runs"):
        write_pseudo_labels(trained[0], runs, device="cpu", show_progress=False)
    runs.mkdir()
    for name in ("config.yaml", "folds.json"):
        (runs / name).write_bytes((trained[1] / name).read_bytes())
    with pytest.raises(InputError, match="without a trained model: 0, 1"):
        write_pseudo_labels(trained[0], runs, device="cpu", show_progress=False)


@pytest.mark.parametrize("fold", [-1, FOLDS])
def test_a_fold_out_of_range_is_refused(fold: int, tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with pytest.raises(InputError, match=f"--fold must be 0 to 1 with 2 folds, got {fold}"):
        train_fold(options(tmp_path / "store", tmp_path / "runs"), fold=fold)


def test_a_store_of_another_size_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "store", size=48)
    with pytest.raises(InputError, match=r"slices of 48 pixels, model\.image_size is 32"):
        train_fold(options(tmp_path / "store", tmp_path / "runs"), fold=0)


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    write_store_info(tmp_path, StoreInfo(CLASS_NAMES, SIZE))
    write_index(tmp_path, [])
    with pytest.raises(InputError, match="holds no case"):
        train_fold(options(tmp_path, tmp_path / "runs"), fold=0)


def relabelled(store: CaseStore, **changes: Any) -> None:
    """Change every line of the index."""
    cases: list[CaseInfo] = [dataclasses.replace(c, **changes) for c in store.cases.values()]
    write_index(store.folder, cases)


def test_a_store_without_any_positive_slice_is_refused(tmp_path: Path) -> None:
    relabelled(make_store(tmp_path / "store"), positive_slices={})
    with pytest.raises(InputError, match="holds a labelled voxel of any class"):
        train_fold(options(tmp_path / "store", tmp_path / "runs"), fold=0)


def test_a_wholly_unlabelled_store_is_refused(tmp_path: Path) -> None:
    relabelled(
        make_store(tmp_path / "store"),
        positive_slices={},
        voxels={},
        volume_ml={},
        lesions={},
        annotated=(),
    )
    with pytest.raises(InputError, match="annotates any class"):
        train_fold(options(tmp_path / "store", tmp_path / "runs"), fold=0)


def test_a_class_that_nobody_annotated_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path / "store", healthy=0)
    kept = [info for name, info in store.cases.items() if "kidney" not in name]
    write_index(store.folder, kept)
    with caplog.at_level(logging.WARNING):
        train_fold(options(tmp_path / "store", tmp_path / "runs"), fold=0)
    assert "no training case annotates kidney_lesion" in caplog.text


def test_a_bad_name_of_a_final_run_is_refused(tmp_path: Path) -> None:
    for name in ("", "a/b", "fold_0", ".hidden", "pseudo_labels"):
        with pytest.raises(InputError, match="--name must be"):
            train_final(options(tmp_path / "store", tmp_path / "runs"), name=name)


def test_a_patient_on_both_sides_is_refused() -> None:
    with pytest.raises(InputError, match="held out at once: p2"):
        require_disjoint(("p1", "p2"), ("p2", "p3"))


def test_a_second_run_into_a_locked_folder_is_refused(tmp_path: Path) -> None:
    from samcancer.files import folder_lock

    make_store(tmp_path / "store")
    with (
        folder_lock(tmp_path / "runs" / "fold_0", purpose="test"),
        pytest.raises(InputError, match="is being written by pid"),
    ):
        train_fold(options(tmp_path / "store", tmp_path / "runs"), fold=0)


def test_voxels_between_the_thresholds_and_of_absent_slices_stay_unknown() -> None:
    probability = np.array([0.1, 0.3, 0.7], dtype=np.float32)[None, :, None].repeat(2, axis=0)
    lesion, decided = label_voxels(
        probability, np.array([True, False]), quick_config().pseudo_labels
    )
    assert lesion[:, :, 0].tolist() == [[False, False, True], [False, False, False]]
    assert decided[:, :, 0].tolist() == [[True, False, True], [True, False, False]]


@pytest.mark.parametrize(
    ("minimum", "metrics", "expected"),
    [
        (0.1, {"liver_lesion": 0.1, "lung_lesion": 0.0999}, ["liver_lesion"]),
        (0.1, {"liver_lesion": None, "lung_lesion": 0.5}, ["lung_lesion"]),
        (0.0, {"liver_lesion": None, "lung_lesion": 0.0}, ["liver_lesion", "lung_lesion"]),
        (0.1, {}, ["liver_lesion", "lung_lesion"]),
    ],
)
def test_a_teacher_is_trusted_with_what_it_found_in_held_out_patients(
    minimum: float, metrics: dict[str, float | None], expected: list[str]
) -> None:
    teacher = LoadedModel(
        model=torch.nn.Identity(),
        config=Config(pseudo_labels=PseudoLabelConfig(min_teacher_dice=minimum)),
        class_names=("liver_lesion", "lung_lesion"),
        presence_thresholds={},
        meta={
            "metrics": {"classes": {n: {"dice": d} for n, d in metrics.items()}} if metrics else {}
        },
        sha256="0" * 64,
        taxonomy=load_taxonomy(),
    )
    assert trusted_classes(teacher) == expected


def test_classes_of_poor_teachers_stay_unknown_and_earlier_labels_of_them_go(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store, runs = CaseStore(trained[0]), tmp_path / "runs"
    strict = dataclasses.replace(
        quick_config(), pseudo_labels=PseudoLabelConfig(min_teacher_dice=1.0)
    )
    for fold in range(FOLDS):
        train_fold(options(trained[0], runs, strict), fold=fold)
    shutil.copytree(trained[1] / "pseudo_labels", runs / "pseudo_labels")
    unknown = {
        name: sum(name not in info.annotated for info in store.cases.values())
        for name in CLASS_NAMES
    }
    summary = write_pseudo_labels(trained[0], runs, device="cpu", show_progress=False)
    assert {name: s.withheld_cases for name, s in summary.classes.items()} == unknown
    assert not PseudoLabels(runs / "pseudo_labels", store).case_ids
    assert train_final(options(trained[0], runs, strict)).outcome == "finished"


def test_pseudo_labels_change_what_is_learned_from(trained: tuple[Path, Path]) -> None:
    best = json.loads((trained[1] / "fold_0" / "best.json").read_text())
    assert set(best["presence_thresholds"]) == set(CLASS_NAMES)
    assert torch.get_default_dtype() == torch.float32
