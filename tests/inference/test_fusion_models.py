"""A fusion is loaded and run like any other model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inference_fakes import WriteScan, bright_box, infer, probabilities

from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.errors import InputError
from samcancer.inference.budget import memory_need
from samcancer.inference.models import Question, load_ensemble
from samcancer.modeling import build_model
from samcancer.modeling.fusion import ClassRule, FusedNet
from samcancer.pretrained.text_embeddings import TextEmbeddings
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.fusion_file import copy_part, write_fusion

CLASSES = ("liver_lesion", "kidney_lesion")
WINDOWS_HU = ((-160.0, 240.0), (-1300.0, 300.0))
SIZE = 64


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Untrained networks of two windows, as finished runs."""
    runs = [tmp_path / "a", tmp_path / "b"]
    for seed, (run, window_hu) in enumerate(zip(runs, WINDOWS_HU, strict=True)):
        config = Config(
            model=ModelConfig(image_size=SIZE, cnn_width=4),
            data=DataConfig(inference_window_hu=window_hu),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build_model(config.model, CLASSES)
        save_checkpoint(run / "best", model, CheckpointMeta(config=config, class_names=CLASSES))
    return runs


@pytest.fixture
def fused(parts: list[Path], tmp_path: Path) -> Path:
    """The first part for one class, the second for the other."""
    folder = tmp_path / "fused"
    for index, run in enumerate(parts):
        copy_part(folder, index, run)
    alone = [ClassRule("mean", (1.0, 0.0)), ClassRule("mean", (0.0, 1.0))]
    write_fusion(
        folder,
        part_names=["a", "b"],
        rules=dict(zip(CLASSES, alone, strict=True)),
        presence_thresholds={CLASSES[0]: 0.25, CLASSES[1]: 0.75},
        figures={},
    )
    return folder


def test_the_command_gives_each_class_as_its_part_gives_it(
    fused: Path, parts: list[Path], write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_scan("scan.nii.gz", bright_box())
    outputs = [tmp_path / "out" / name for name in ("fused", "a", "b")]
    for output, model in zip(outputs, (fused, *parts), strict=True):
        assert infer(scan, output, model) == 0
    for name, output in zip(CLASSES, outputs[1:], strict=True):
        together, alone = (probabilities(folder, name) for folder in (outputs[0], output))
        assert np.ptp(alone) > 0
        np.testing.assert_allclose(together, alone, atol=2e-3)


def test_a_fusion_is_one_member_with_its_own_thresholds_and_hash(fused: Path) -> None:
    ensemble = load_ensemble([fused], device="cpu")
    (net,) = ensemble.members
    assert isinstance(net, FusedNet)
    assert [m.window_hu for part in net.parts for m in part] == list(WINDOWS_HU)
    assert ensemble.class_names == CLASSES
    torch.testing.assert_close(ensemble.thresholds, torch.tensor([0.25, 0.75]))
    assert ensemble.image_size == SIZE
    assert len(ensemble.sha256) == 1


def test_a_fusion_is_averaged_with_another_model(fused: Path, parts: list[Path]) -> None:
    ensemble = load_ensemble([fused, parts[0]], device="cpu")
    assert len(ensemble.members) == len(ensemble.sha256) == 2
    torch.testing.assert_close(ensemble.thresholds, torch.tensor([0.375, 0.625]))


def test_a_fusion_is_asked_for_its_own_classes_only(fused: Path) -> None:
    embeddings = TextEmbeddings(
        tower="any",
        weights_sha256="0" * 64,
        template="own",
        class_names=CLASSES[:1],
        prompts=("a liver lesion",),
        vectors=np.eye(1, 4, dtype=np.float32),
    )
    with pytest.raises(InputError, match="fused: is a fusion and knows its own classes only"):
        load_ensemble([fused], device="cpu", question=Question(CLASSES[:1], embeddings))


def test_a_fusion_needs_the_weights_of_all_parts_and_the_work_of_one(
    fused: Path, parts: list[Path]
) -> None:
    needs = {
        name: memory_need(
            load_ensemble(paths, device="cpu").members,
            (10, 40, 40),
            size=SIZE,
            class_count=len(CLASSES),
            label_maps=1,
            views=1,
            device="cuda",
            voxel_mm=(2.0, 1.0, 1.0),
        )
        for name, paths in {"fused": [fused], "a": parts[:1], "b": parts[1:]}.items()
    }
    assert needs["fused"].fixed == needs["a"].fixed + needs["b"].fixed
    logits = 4 * SIZE * SIZE * len(CLASSES)
    assert needs["a"].per_slice == needs["b"].per_slice
    # of each part a chunk, what waits for the other part, and what both are joined from; and how
    # far they agree
    assert needs["fused"].per_slice == needs["a"].per_slice + (2 * 3 - 1 + 1) * logits
