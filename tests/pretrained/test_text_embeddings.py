"""The file of text embeddings: what is written, what is refused, and that numpy reads it."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from samcancer.errors import InputError
from samcancer.pretrained import text_embeddings
from samcancer.pretrained.text_embeddings import (
    TextEmbeddings,
    read_text_embeddings,
    write_text_embeddings,
)

NAMES = ("liver_tumor", "kidney_tumor", "lung_tumor")


def unit_vectors(count: int = 3, dim: int = 5, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embeddings(**changes: Any) -> TextEmbeddings:
    fields = {
        "tower": "clip_vit_b_32",
        "weights_sha256": "ab" * 32,
        "template": "own",
        "class_names": NAMES,
        "prompts": tuple(f"a {name}, écrit" for name in NAMES),
        "vectors": unit_vectors(),
    }
    return TextEmbeddings(**{**fields, **changes})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "e.safetensors"
    write_text_embeddings(path, embeddings())
    there = read_text_embeddings(path)
    assert there.key == embeddings().key
    assert np.array_equal(there.vectors, unit_vectors())
    assert there.sha256 == embeddings().sha256
    assert [p.name for p in path.parent.iterdir()] == ["e.safetensors"]


def test_equal_embeddings_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_text_embeddings(tmp_path / name, embeddings())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"tower": "clip_vit_b_16"},
        {"weights_sha256": "cd" * 32},
        {"template": "photo"},
        {"class_names": (*NAMES[:2], "lesion")},
        {"prompts": ("a", "b", "c")},
        {"vectors": unit_vectors(seed=1)},
    ],
)
def test_the_hash_tells_any_difference(change: dict[str, Any]) -> None:
    assert embeddings(**change).sha256 != embeddings().sha256


def test_classes_are_selected_in_the_order_asked_for() -> None:
    selected = embeddings().select(("lung_tumor", "liver_tumor"))
    assert selected.dtype == np.float32
    assert np.array_equal(selected, unit_vectors()[[2, 0]])


@pytest.mark.parametrize(
    ("tower", "option"),
    [
        ("clip_vit_b_32", "--tower clip_vit_b_32 --template photo"),
        ("ViT-B-32", "--tower ViT-B-32 --weights FILE --template photo"),
        ("local-dir:bio@0123", "--tower local-dir:FOLDER --template photo"),
    ],
)
def test_a_missing_class_is_refused_with_the_command(tower: str, option: str) -> None:
    with pytest.raises(InputError) as caught:
        embeddings(tower=tower, template="photo").select(("liver_tumor", "spleen"))
    assert f"the text embeddings of {tower} lack spleen." in str(caught.value)
    command = f"samcancer build-text-embeddings {option} --classes liver_tumor spleen"
    assert command in str(caught.value)


def test_the_closest_pair_is_found() -> None:
    vectors = np.eye(3, dtype=np.float32)
    vectors[2] = (0.0, 0.6, 0.8)
    one, other, cosine = embeddings(vectors=vectors).closest_pair() or ("", "", 0.0)
    assert (one, other) == ("kidney_tumor", "lung_tumor")
    assert cosine == pytest.approx(0.6)
    single = embeddings(class_names=("a",), prompts=("b",), vectors=vectors[:1])
    assert single.closest_pair() is None


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"vectors": unit_vectors() * 1.01}, "'liver_tumor' has length 1.01, not 1"),
        ({"vectors": unit_vectors() * np.float32(np.nan)}, "length nan, not 1"),
        ({"vectors": unit_vectors(2)}, r"shape \(2, 5\), not \(3, D\)"),
        ({"vectors": unit_vectors()[0]}, r"shape \(5,\)"),
        ({"vectors": unit_vectors()[:, :0]}, r"shape \(3, 0\)"),
        ({"vectors": unit_vectors().astype(np.float64)}, "float64, not float32"),
        ({"class_names": ("a", "b", "a")}, "class 'a' is there twice"),
        ({"prompts": ("a", "b")}, "2 prompts for 3 classes"),
        ({"class_names": (), "prompts": ()}, "0 prompts for 0 classes"),
        ({"class_names": ("a", "b", 3)}, "must be texts"),
        ({"weights_sha256": "ab"}, "64 digits, got 'ab'"),
    ],
)
def test_malformed_embeddings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], fact: str
) -> None:
    with pytest.raises(ValueError, match=fact):
        embeddings(**change)
    path = tmp_path / "e.safetensors"
    header = {"format": 1, **embeddings().key, "sha256": "0" * 64, **change}
    vectors = header.pop("vectors", unit_vectors())
    save_file(
        {"vectors": vectors}, path, metadata={"text_embeddings": text_embeddings._text(header)}
    )
    with pytest.raises(InputError, match=rf"e\.safetensors: malformed text embeddings \(.*{fact}"):
        read_text_embeddings(path)


def test_a_missing_file_is_one_line_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"e\.safetensors: no such file\. .*build-text-embeddings"):
        read_text_embeddings(tmp_path / "e.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    for content in (b"", b"text", bytes(100), b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable file of text embeddings"):
            read_text_embeddings(path)
    with pytest.raises(InputError, match="not a readable file of text embeddings"):
        read_text_embeddings(tmp_path)
    for metadata in (None, {"text_embeddings": "{"}, {"text_embeddings": "[" * 100_000}):
        save_file({"vectors": unit_vectors()}, path, metadata=metadata)
        with pytest.raises(InputError, match="not a readable file of text embeddings"):
            read_text_embeddings(path)
    save_file({"vectors": unit_vectors()}, path, metadata={"text_embeddings": "[]"})
    with pytest.raises(InputError, match="not a file of text embeddings"):
        read_text_embeddings(path)
    save_file({"vectors": unit_vectors()}, path, metadata={"text_embeddings": '{"format": 2}'})
    with pytest.raises(InputError, match="format 2, this version reads 1"):
        read_text_embeddings(path)
    save_file({"vectors": unit_vectors()}, path, metadata={"text_embeddings": '{"format": 1}'})
    with pytest.raises(InputError, match="malformed text embeddings"):
        read_text_embeddings(path)


def test_every_flipped_bit_and_truncation_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    write_text_embeddings(path, embeddings())
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_text_embeddings(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_text_embeddings(path)


def test_what_is_not_written_as_intended_never_gets_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.safetensors"
    write_text_embeddings(path, embeddings())
    old = path.read_bytes()
    other = dataclasses.replace(embeddings(), template="photo")
    monkeypatch.setattr(text_embeddings, "read_text_embeddings", lambda path: embeddings())
    with pytest.raises(InputError, match="not written as intended"):
        write_text_embeddings(path, other)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_reading_imports_neither_open_clip_nor_torch(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    write_text_embeddings(path, embeddings())
    code = (
        "import sys\n"
        "sys.modules.update(open_clip=None, torch=None, transformers=None)\n"
        "from pathlib import Path\n"
        "from samcancer.pretrained.text_embeddings import read_text_embeddings\n"
        f"print(read_text_embeddings(Path({str(path)!r})).select(['lung_tumor']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 5)"
