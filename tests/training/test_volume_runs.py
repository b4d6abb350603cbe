"""Volume networks and slice classifiers through the same loop: learning, checkpoints, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from real_store import make_store
from safetensors.torch import load_file

from samcancer.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    UniversalConfig,
)
from samcancer.errors import InputError
from samcancer.training.checkpoint import load_checkpoint
from samcancer.training.epoch_log import read_log
from samcancer.training.pseudo_labels import write_pseudo_labels
from samcancer.training.run import RunOptions, train_final, train_fold


def config(head: str = "onehot", **train: object) -> Config:
    volume = UniversalConfig(
        backbone="segresnet",
        width=8,
        head=head,
        patch_size=(16, 32, 32),
        spacing_mm=(3.0, 2.0, 2.0),
    )
    settings = {
        "epochs": 4,
        "samples_per_epoch": 6,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "validate_every": 2,
        "optimizer": "adamw",
        "decay": "cosine",
        **train,
    }
    return Config(
        model=ModelConfig(system="universal", image_size=32, universal=volume),
        data=DataConfig(workers=0, lesion_fraction=1.0, train_windows_hu=((-200.0, 300.0),)),
        augmentation=AugmentationConfig(probability=0.3),
        train=TrainConfig(**settings),  # type: ignore[arg-type]
        folds=2,
    )


def options(tmp_path: Path, name: str, made: Config, **more: object) -> RunOptions:
    return RunOptions(
        store=tmp_path / "store",
        output=tmp_path / name,
        config=made,
        accelerator="cpu",
        show_progress=False,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("head", ["onehot", "learned", "plain"])
def test_a_volume_network_learns_from_patches_of_the_store(tmp_path: Path, head: str) -> None:
    make_store(tmp_path / "store")
    result = train_fold(options(tmp_path, "runs", config(head, epochs=6)), fold=0)
    lines = read_log(tmp_path / "runs" / "fold_0")
    assert result.outcome == "finished"
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["loss_presence"] == 0
    loaded = load_checkpoint(tmp_path / "runs" / "fold_0")
    assert loaded.config.model.system == "universal"
    assert set(loaded.presence_thresholds) == {"liver_lesion", "kidney_lesion"}


def test_two_and_two_epochs_of_a_volume_network_equal_four(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    train_fold(options(tmp_path, "whole", config()), fold=0)
    first = train_fold(options(tmp_path, "halves", config(), stop_after_epochs=2), fold=0)
    assert first.outcome == "stopped"
    train_fold(options(tmp_path, "halves", config(), resume=True), fold=0)
    for name in ("best.safetensors", "last.safetensors"):
        whole, halves = (load_file(tmp_path / run / "fold_0" / name) for run in ("whole", "halves"))
        assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_teachers_of_one_system_label_for_a_student_of_another(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    made = config()
    trusting = dataclasses.replace(
        made, pseudo_labels=dataclasses.replace(made.pseudo_labels, min_teacher_dice=0.0)
    )
    for fold in range(2):
        train_fold(options(tmp_path, "runs", trusting), fold=fold)
    summary = write_pseudo_labels(
        tmp_path / "store", tmp_path / "runs", device="cpu", show_progress=False
    )
    assert sum(result.cases for result in summary.classes.values()) > 0
    result = train_final(options(tmp_path, "runs", config("plain", epochs=1)))
    assert result.outcome == "finished"
    student = load_checkpoint(tmp_path / "runs" / "final")
    assert student.config.model.universal.head == "plain"
    assert student.meta["pseudo_labels_fingerprint"] is not None


def test_a_run_starts_from_another_and_says_so(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    train_fold(options(tmp_path, "first", config(epochs=1)), fold=0)
    first = tmp_path / "first" / "fold_0"
    tuned = config(epochs=1, learning_rate=1e-12)
    train_fold(options(tmp_path, "second", tuned, start_from=first), fold=0)
    before, after = load_checkpoint(first), load_checkpoint(tmp_path / "second" / "fold_0")
    assert after.meta["started_from"] == before.sha256
    for name, value in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], value, atol=1e-6, rtol=0)


def test_a_configuration_that_makes_no_network_is_not_kept(tmp_path: Path) -> None:
    """The next call, with the mistake mended, is not held against the first one."""
    make_store(tmp_path / "store")
    wrong = config(head="clip")
    with pytest.raises(InputError, match="unknown head 'clip'"):
        train_fold(options(tmp_path, "runs", wrong), fold=0)
    assert not (tmp_path / "runs" / "config.yaml").exists()
    assert not (tmp_path / "runs" / "fold_0").exists()
    assert train_fold(options(tmp_path, "runs", config(epochs=1)), fold=0).outcome == "finished"
    with pytest.raises(InputError, match="started with another configuration"):
        train_fold(options(tmp_path, "runs", config("plain", epochs=1)), fold=1)
