"""A text-prompted network is asked for classes by name, trained or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inference_fakes import WriteScan, bright_box, infer, probabilities

from samcancer.config import Config, ModelConfig, UniversalConfig
from samcancer.files import read_json
from samcancer.pretrained.text_embeddings import TextEmbeddings, write_text_embeddings
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.network import build_network

TRAINED = ("liver_lesion", "kidney_lesion")
EVERYTHING = (*TRAINED, "lung_lesion")


def text_of(folder: Path, *, template: str = "own") -> tuple[Path, TextEmbeddings]:
    vectors = np.random.default_rng(0).normal(size=(len(EVERYTHING), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = TextEmbeddings(
        tower="clip_vit_b_32",
        weights_sha256="0" * 64,
        template=template,
        class_names=EVERYTHING,
        prompts=EVERYTHING,
        vectors=vectors.astype(np.float32),
    )
    path = folder / f"{template}.safetensors"
    write_text_embeddings(path, embeddings)
    return path, embeddings


@pytest.fixture(params=["samcancer", "universal"])
def run_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run of a text-prompted network of random weights that finds something everywhere."""
    return save_run(tmp_path / "run", system=request.param, class_prompt="text")


def save_run(folder: Path, *, class_prompt: str, system: str = "samcancer") -> Path:
    folder.mkdir()
    path, embeddings = text_of(folder)
    with_text = class_prompt != "indicator"
    model = ModelConfig(
        system=system,  # type: ignore[arg-type]
        image_size=32,
        cnn_width=4,
        class_prompt=class_prompt,  # type: ignore[arg-type]
        text_embeddings=str(path) if with_text else None,
        universal=UniversalConfig(backbone="segresnet", width=8, patch_size=(8, 16, 16)),
    )
    meta = CheckpointMeta(
        config=Config(model=model),
        class_names=TRAINED,
        presence_thresholds=dict.fromkeys(TRAINED, 0.0),
        text=embeddings.source if with_text else None,
    )
    save_checkpoint(folder / "best", build_network(model, TRAINED), meta)
    return folder


def test_trained_and_untrained_classes_are_asked_for_in_any_order(
    write_scan: WriteScan, run_folder: Path, tmp_path: Path
) -> None:
    scan, (text, embeddings) = write_scan("scan.nii.gz", bright_box()), text_of(tmp_path)
    ask = ("--ask", "lung_lesion", "liver_lesion", "--text-embeddings", str(text))
    assert infer(scan, tmp_path / "trained", run_folder) == 0
    assert infer(scan, tmp_path / "asked", run_folder, *ask) == 0
    report = read_json(tmp_path / "asked" / "scan.json")
    assert report["labels"] == {"background": 0, "lung_lesion": 1, "liver_lesion": 2}
    assert report["model"]["presence_thresholds"] == {"lung_lesion": 0.5, "liver_lesion": 0.0}
    assert report["model"]["text_sha256"] == embeddings.sha256
    trained = probabilities(tmp_path / "trained", "liver_lesion")
    asked = probabilities(tmp_path / "asked", "liver_lesion")
    np.testing.assert_allclose(asked, trained, atol=2e-3)
    new = probabilities(tmp_path / "asked", "lung_lesion")
    assert np.abs(new - asked).max() > 2e-3


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (("--ask", "lung_lesion"), "--ask and --text-embeddings go together"),
        (("--ask", "spleen", "--text-embeddings", "own"), "lack spleen"),
        (("--ask", "warts", "--text-embeddings", "own"), "the taxonomy has no class 'warts'"),
        (
            ("--ask", "lung_lesion", "lung_lesion", "--text-embeddings", "own"),
            "names a class twice",
        ),
        (("--ask", "lung_lesion", "--text-embeddings", "photo"), "of template own, the given"),
    ],
)
def test_wrong_questions_are_one_line_and_status_2(
    write_scan: WriteScan,
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ask: tuple[str, ...],
    message: str,
) -> None:
    for template in ("own", "photo"):
        text_of(tmp_path, template=template)
    words = [str(tmp_path / f"{w}.safetensors") if w in ("own", "photo") else w for w in ask]
    assert infer(write_scan("scan.nii.gz", bright_box()), tmp_path / "out", run_folder, *words) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize("kind", ["indicator", "both"])
def test_a_network_with_learned_classes_says_that_it_knows_no_others(
    write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    run, (text, _) = save_run(tmp_path / kind, class_prompt=kind), text_of(tmp_path)
    scan = write_scan("scan.nii.gz", bright_box())
    ask = ("--ask", "lung_lesion", "--text-embeddings", str(text))
    assert infer(scan, tmp_path / "out", run, *ask) == 2
    assert f"was trained with '{kind}' class prompts" in capsys.readouterr().err
