"""Text towers of open_clip, small and with seeded random weights.

CLIP's and BiomedCLIP's weights cannot be downloaded where these tests run, so the official files
are imitated: the same entries in the same forms (TorchScript in half precision as OpenAI's, a state
dict, a folder as on the Hugging Face hub), read by open_clip itself as the reference. What is not
tested is the published numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file
from torch import Tensor
from torchscript_files import save_torchscript

from samcancer.commands import run_verb
from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.pretrained import PublishedFile, fetching, registry, text_embeddings, text_towers
from samcancer.pretrained.registry import FOLDER_VARIABLE
from samcancer.pretrained.text_embeddings import read_text_embeddings
from samcancer.pretrained.text_towers import TextTower, embed_prompts, find_tower

PROMPTS = ("A computerized tomography of a liver tumor", "There is a cyst.", "colon")

TINY: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
"""OpenAI's architecture, small: 64 channels a head, QuickGELU, its tokenizer."""

BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 12,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}

BIOMEDICAL: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {
        "hf_model_name": "nobody/no-such-bert",
        "hf_tokenizer_name": "nobody/no-such-bert",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 16,
    },
}
"""BiomedCLIP's text tower, small."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise AssertionError("a test of text towers used the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give open_clip one more model of the name ``tiny-clip``."""
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [])
    path = tmp_path / "tiny-clip.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    open_clip.add_model_config(path)
    return "tiny-clip"


def random_clip(seed: int = 0) -> open_clip.CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**TINY)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def embedded_by_open_clip(model: Any, tokenizer: Callable[[list[str]], Tensor]) -> np.ndarray:
    with torch.no_grad():
        vectors = model.encode_text(tokenizer(list(PROMPTS)), normalize=True)
    return vectors.numpy()


def folder_of(
    folder: Path, model: torch.nn.Module, model_cfg: dict[str, Any], **files: dict[str, Any]
) -> Path:
    """Write a model as open_clip pushes it to the Hugging Face hub."""
    folder.mkdir()
    content = {"model_cfg": model_cfg, "preprocess_cfg": {}}
    for name, fields in {"open_clip_config": content, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(fields), encoding="utf-8")
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    return folder


def openai_file(path: Path, model: open_clip.CLIP) -> Path:
    """Write a model as OpenAI published CLIP."""
    open_clip.convert_weights_to_fp16(model)
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    save_torchscript(
        {**model.state_dict(), **{name: torch.tensor(size) for name, size in sizes.items()}}, path
    )
    model.float()
    return path


def test_a_state_dict_gives_open_clips_embeddings(tmp_path: Path, tiny_model: str) -> None:
    model, weights = random_clip(), tmp_path / "weights.pt"
    torch.save(model.state_dict(), weights)
    before = torch.random.get_rng_state()
    tower = find_tower(tiny_model, weights)
    vectors = embed_prompts(PROMPTS, tower=tower)
    expected = embedded_by_open_clip(model, open_clip.get_tokenizer(tiny_model))
    assert vectors.shape == (3, 24)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert tower.weights_sha256 == sha256_of(weights)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_archive_of_openais_gives_open_clips_embeddings(tmp_path: Path, tiny_model: str) -> None:
    weights = openai_file(tmp_path / "clip.pt", random_clip())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        model = open_clip.load_openai_model(str(weights), device="cpu")
    vectors = embed_prompts(PROMPTS, tower=find_tower(tiny_model, weights))
    expected = embedded_by_open_clip(model, open_clip.get_tokenizer(tiny_model))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_openais_weights_are_refused_for_another_activation(tmp_path: Path) -> None:
    """They fit in every shape, so open_clip takes them and says nothing."""
    folder = folder_of(tmp_path / "tower", random_clip(), {**TINY, "quick_gelu": False})
    weights = openai_file(tmp_path / "clip.pt", random_clip())
    with pytest.raises(InputError, match=r"clip\.pt: a file of OpenAI's, which is for QuickGELU"):
        embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}", weights))


def test_a_prompt_is_embedded_alike_alone_and_among_others(tmp_path: Path, tiny_model: str) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(random_clip().state_dict(), weights)
    tower = find_tower(tiny_model, weights)
    together = embed_prompts(PROMPTS, tower=tower)
    alone = embed_prompts(PROMPTS[1:2], tower=tower)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
    assert abs(float(together[0] @ together[1])) < 0.999


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_folder_gives_open_clips_embeddings(tmp_path: Path, custom_text: bool) -> None:
    config = {**TINY, "custom_text": custom_text}
    folder = folder_of(tmp_path / "tower", random_clip(), config)
    vectors = embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))
    source = f"local-dir:{folder}"
    model = open_clip.create_model(source).eval()
    expected = embedded_by_open_clip(model, open_clip.get_tokenizer(source))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_a_folder_is_named_by_its_settings_and_not_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here = find_tower(f"local-dir:{folder_of(tmp_path / 'bio', random_clip(), TINY)}")
    there = folder_of(tmp_path / "elsewhere" / "bio", random_clip(), TINY)
    assert find_tower(f"local-dir:{there}").name == here.name
    assert here.name.startswith("local-dir:bio@")
    config = {"model_cfg": {**TINY, "quick_gelu": False}}
    (there / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    changed = find_tower(f"local-dir:{there}")
    assert changed.name != here.name
    assert changed.weights_sha256 == here.weights_sha256


def biomedical_folder(folder: Path) -> Path:
    """Write a folder like BiomedCLIP's, saved with an old BERT's counter of positions."""
    transformers = pytest.importorskip("transformers")
    source = folder.parent / "bert"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "liver", "tumor", "cyst", "is")
    (source / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    text = {**BIOMEDICAL["text_cfg"], "hf_model_name": str(source), "hf_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CustomTextCLIP(**{**BIOMEDICAL, "text_cfg": text})
    folder_of(folder, model, BIOMEDICAL, config=BERT)
    counter = {"text.transformer.embeddings.position_ids": torch.arange(32)[None]}
    save_file({**model.state_dict(), **counter}, folder / "open_clip_model.safetensors")
    transformers.BertTokenizer(str(source / "vocab.txt")).save_pretrained(str(folder))
    return folder


def test_a_tower_of_hugging_face_is_read_from_its_folder(tmp_path: Path) -> None:
    folder = biomedical_folder(tmp_path / "biomedical")
    vectors = embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))
    config = {**BIOMEDICAL, "text_cfg": {**BIOMEDICAL["text_cfg"], "hf_model_name": str(folder)}}
    config["text_cfg"]["hf_model_pretrained"] = False
    model = open_clip.CustomTextCLIP(**config)
    open_clip.load_checkpoint(model, str(folder / "open_clip_model.safetensors"))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    np.testing.assert_allclose(vectors, embedded_by_open_clip(model.eval(), tokenizer), atol=1e-6)


def test_a_long_prompt_of_a_hugging_face_tower_is_refused(tmp_path: Path) -> None:
    tower = find_tower(f"local-dir:{biomedical_folder(tmp_path / 'biomedical')}")
    assert embed_prompts([" ".join(["a"] * 14)], tower=tower).shape == (1, 24)
    with pytest.raises(InputError, match=r"has 17 tokens, local-dir:biomedical@.* takes 16"):
        embed_prompts([" ".join(["a"] * 15)], tower=tower)


def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = biomedical_folder(tmp_path / "biomedical")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"biomedical: .* has no usable tokenizer") as caught:
        embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))
    assert "\n" not in str(caught.value)


def test_without_transformers_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = folder_of(
        tmp_path / "bio", random_clip(), BIOMEDICAL, config=BERT, tokenizer={"model": {}}
    )
    with pytest.raises(InputError, match=r"needs the package transformers\. Run `pip install tra"):
        embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))


def changed_config(**changes: Any) -> dict[str, Any]:
    """Return the tiny configuration with fields of its parts replaced."""
    return {**TINY, **{k: {**TINY.get(k, {}), **v} for k, v in changes.items()}}


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        (BIOMEDICAL, r"config\.json: no such file\. Copy the config\.json of nobody/no-such-bert"),
        (
            changed_config(text_cfg={"hf_tokenizer_name": "a/b"}),
            r"tower: holds no tokenizer\. Copy the tokenizer's files of a/b there",
        ),
        (changed_config(multimodal_cfg={"width": 64}), "is a CoCa model"),
        (changed_config(vision_cfg={"timm_model_name": "hf-hub:a/b"}), "'hf-hub:a/b', which is no"),
        (
            changed_config(text_cfg={"tokenizer_kwargs": {"reduction_mask": "random"}}),
            "drops words of a prompt at random",
        ),
        (changed_config(text_cfg={"colour": 3}), r"cannot build local-dir:tower@.*'colour'"),
        (changed_config(text_cfg={"vocab_size": 100}), "not the weights of local-dir:tower@.*shap"),
        ({}, "has no model_cfg with text_cfg and vision_cfg"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, config: dict[str, Any], fact: str
) -> None:
    folder = folder_of(tmp_path / "tower", random_clip(), config)
    with pytest.raises(InputError, match=fact) as caught:
        embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    bert = {**BERT, "auto_map": {"AutoModel": "evil.Model"}}
    folder = folder_of(
        tmp_path / "bio", random_clip(), BIOMEDICAL, config=bert, tokenizer={"model": {}}
    )
    with pytest.raises(InputError, match=r"config\.json: names Python code of its own"):
        embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = changed_config(text_cfg={"vocab_size": 100})
    folder = folder_of(tmp_path / "tower", open_clip.CLIP(**config), config)
    with pytest.raises(InputError, match="tokenizer has more than the 100 tokens"):
        embed_prompts(PROMPTS, tower=find_tower(f"local-dir:{folder}"))


def test_a_folder_without_weights_or_configuration_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tower", random_clip(), TINY)
    weights = (folder / "open_clip_model.safetensors").rename(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="tower: holds no weights of open_clip"):
        find_tower(f"local-dir:{folder}")
    assert find_tower(f"local-dir:{folder}", weights).weights == weights
    with pytest.raises(InputError, match=r"open_clip_config\.json: no such file"):
        find_tower(f"local-dir:{tmp_path}")


def test_the_cut_of_a_long_prompt_is_refused(tmp_path: Path, tiny_model: str) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(random_clip().state_dict(), weights)
    tower = find_tower(tiny_model, weights)
    assert embed_prompts([" ".join(["liver"] * 75)], tower=tower).shape == (1, 24)
    with pytest.raises(InputError, match="has 78 tokens, tiny-clip takes 77"):
        embed_prompts([" ".join(["liver"] * 76)], tower=tower)
    with pytest.raises(ValueError, match="prompts must not be empty"):
        embed_prompts([], tower=tower)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"ln_final.weight": None}, "it lacks ln_final.weight, and 0 more"),
        ({"extra": torch.ones(1)}, "it has extra besides"),
        ({"positional_embedding": torch.ones(60, 64)}, r"has shape \(60, 64\), not \(77, 64\)"),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, tiny_model: str, change: dict[str, Tensor | None], fact: str
) -> None:
    state = {**random_clip().state_dict(), **change}
    weights = tmp_path / "weights.pt"
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, weights)
    with pytest.raises(InputError, match=rf"weights\.pt: not the weights of tiny-clip: .*{fact}"):
        embed_prompts(PROMPTS, tower=find_tower(tiny_model, weights))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, tiny_model: str) -> None:
    state = random_clip().state_dict()
    state["ln_final.bias"][3] = torch.nan
    weights = tmp_path / "weights.pt"
    torch.save(state, weights)
    with pytest.raises(InputError, match=r"weights\.pt: its embeddings are zero or not finite"):
        embed_prompts(PROMPTS, tower=find_tower(tiny_model, weights))


def test_names_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(random_clip().state_dict(), weights)
    with pytest.raises(InputError, match=r"not in the registry.*--weights FILE.*clip_vit_b_32"):
        find_tower("ViT-B-32")
    with pytest.raises(InputError, match="sam_vit_b_01ec64 has no text tower"):
        find_tower("sam_vit_b_01ec64")
    with pytest.raises(InputError, match="nothing is downloaded for 'hf-hub:a/b'"):
        find_tower("hf-hub:a/b", weights)
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        find_tower("ViT-B-32", tmp_path / "none.pt")
    with pytest.raises(InputError, match="open_clip has no model 'ViT-B-99'"):
        embed_prompts(PROMPTS, tower=find_tower("ViT-B-99", weights))
    for name in ("roberta-ViT-B-32", "ViT-B-16-SigLIP"):
        with pytest.raises(InputError, match="tokenizer that open_clip would download"):
            embed_prompts(PROMPTS, tower=find_tower(name, weights))


@pytest.fixture
def tiny_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str
) -> PublishedFile:
    """Give the registry the one entry ``tiny``, and put its file, OpenAI's form, in its place."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    content = openai_file(folder / "tiny.pt", random_clip()).read_bytes()
    entry = PublishedFile(
        name="tiny",
        what="a tiny CLIP",
        licence="MIT",
        source="a test",
        file="tiny.pt",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        url="https://example.org/tiny.pt",
        open_clip=tiny_model,
    )
    for module in (registry, fetching, text_towers, text_embeddings):
        monkeypatch.setattr(module, "load_registry", lambda: {"tiny": entry})
    return entry


def test_a_file_of_the_registry_must_be_the_published_one(
    tmp_path: Path, tiny_registry: PublishedFile
) -> None:
    path = tmp_path / "checkpoints" / "tiny.pt"
    tower = find_tower("tiny")
    assert tower == TextTower(
        name="tiny", model="tiny-clip", weights=path, weights_sha256=tiny_registry.sha256
    )
    copy = tmp_path / "copy.pt"
    copy.write_bytes(path.read_bytes())
    assert find_tower("tiny", copy) == dataclasses.replace(tower, weights=copy)
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    copy.write_bytes(damaged)
    for weights in (None, copy):
        with pytest.raises(InputError, match=r"is not tiny: its SHA-256 is"):
            find_tower("tiny", weights)
    path.unlink()
    with pytest.raises(InputError, match="fetch-checkpoints tiny"):
        find_tower("tiny")


COMMAND = ["--tower", "tiny", "--classes", "lung", "phantom", "lung_tumor"]


@pytest.mark.usefixtures("tiny_registry")
def test_the_command_writes_once_and_never_replaces_unasked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    caplog.set_level("INFO")
    assert run_verb("build-text-embeddings", COMMAND) == 0
    path = tmp_path / "text_embeddings" / "tiny_own.safetensors"
    written = read_text_embeddings(path)
    names = ("lung_tumor", "liver_lesion", "kidney_lesion", "lung_lesion", "soft_tissue_lesion")
    assert written.class_names == names
    assert written.prompts[0] == "A computerized tomography of a lung tumor"
    np.testing.assert_array_equal(
        written.vectors, embed_prompts(written.prompts, tower=find_tower("tiny"))
    )
    shown = capsys.readouterr().out
    one, other, cosine = written.closest_pair() or ("", "", 0.0)
    assert f"{one} and {other} (cosine {cosine:.3f})" in shown
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(text_towers, "embed_prompts", None)
    assert run_verb("build-text-embeddings", COMMAND) == 0
    assert "is there and up to date" in caplog.text
    assert path.stat().st_mtime_ns == before


@pytest.mark.usefixtures("tiny_registry")
def test_other_embeddings_are_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "e.safetensors"
    command = [*COMMAND, "--output", str(output)]
    assert run_verb("build-text-embeddings", command) == 0
    old = output.read_bytes()
    capsys.readouterr()
    assert run_verb("build-text-embeddings", [*command, "--template", "photo"]) == 2
    message = capsys.readouterr().err
    assert "e.safetensors: was built with other template, prompts." in message
    assert "--overwrite" in message
    assert message.count("\n") == 1
    assert output.read_bytes() == old
    assert run_verb("build-text-embeddings", [*command, "--template", "photo", "--overwrite"]) == 0
    assert read_text_embeddings(output).prompts[0] == "A photo of a lung tumor."
    output.write_bytes(b"damaged")
    assert run_verb("build-text-embeddings", command) == 2
    assert "not a readable file of text embeddings" in capsys.readouterr().err
    assert run_verb("build-text-embeddings", [*command, "--overwrite"]) == 0
    assert output.read_bytes() == old


@pytest.mark.usefixtures("tiny_registry")
@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--classes", "lungs", "nose"], "no class or class set is named 'nose'"),
        (["--template", "poem"], "unknown prompt template 'poem'"),
        (["--taxonomy", "none.yaml"], "none.yaml: no such file"),
        (["--weights", "none.pt"], "none.pt: no such file"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb("build-text-embeddings", ["--tower", "tiny", *options]) == 2
    message = capsys.readouterr().err
    assert fact in message
    assert message.count("\n") == 1


@pytest.mark.usefixtures("tiny_registry")
def test_every_class_is_embedded_by_default(tmp_path: Path) -> None:
    from samcancer.taxonomy import load_taxonomy

    output = tmp_path / "e.safetensors"
    options = ["--tower", "tiny", "--output", str(output), "--template", "cancers"]
    assert run_verb("build-text-embeddings", options) == 0
    taxonomy = load_taxonomy()
    written = read_text_embeddings(output)
    assert written.class_names == tuple(taxonomy.classes)
    for name in taxonomy.class_sets:
        assert len(written.select(taxonomy.class_names(name))) == len(taxonomy.class_names(name))
