"""Checkpoints, weights and YAML made to execute, to read elsewhere or to fill the memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogue import provokes
from harness import Command, good_scan, names_in, prepare, require_one_line, save_run
from real_store import make_store
from test_catalogue_training import train_fold

from samcancer.files import write_sealed_json
from samcancer.training.checkpoint import read_checkpoint_meta


class Payload:
    """Pickles into a call that leaves a mark."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Exists once something was executed."""
    return tmp_path / "executed"


def plain_pickle(mark: Path) -> bytes:
    return pickle.dumps(Payload(os.system, f"touch {mark}"))


def torch_archive(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": Payload(os.mkdir, str(mark))}, buffer)
    return buffer.getvalue()


def torch_legacy(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save([Payload(exec, f"open({str(mark)!r}, 'w')")], buffer,
               _use_new_zipfile_serialization=False)  # fmt: skip
    return buffer.getvalue()


PAYLOADS = {"pickle": plain_pickle, "archive": torch_archive, "legacy": torch_legacy}


def test_the_payloads_are_live(mark: Path) -> None:
    pickle.loads(plain_pickle(mark))
    assert mark.exists()


def safetensors(header: object, *, length: int | None = None, data: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


LYING_HEADERS = {
    "longer than the file": safetensors({}, length=1 << 62),
    "offsets beyond the data": safetensors(
        {"w": {"dtype": "F32", "shape": [4096, 4096], "data_offsets": [0, 1 << 26]}}
    ),
    "shape against offsets": safetensors(
        {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 64]}}
    ),
    "shape that overflows": safetensors(
        {"w": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 64]}}
    ),
    "offsets backwards": safetensors(
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [32, 16]}}
    ),
    "no JSON": safetensors(b"\x80\x04cos\nsystem\n"),
    "nested without end": safetensors(b"[" * 50_000),
    "nothing": b"",
}


def signed(run: Path, content: bytes) -> Path:
    """Put other bytes in place of a run's tensors, and a JSON that vouches for them."""
    meta = read_checkpoint_meta(run / "best")
    meta["safetensors_sha256"] = hashlib.sha256(content).hexdigest()
    write_sealed_json(run / "best.json", meta)
    (run / "best.safetensors").write_bytes(content)
    return run


def require_model_refused(command: Command, folder: Path, model: Path, *, fact: str) -> None:
    scan = good_scan(folder / "in" / "scan.nii.gz")
    words = ["--input", scan, "--output", folder / "out", "--device", "cpu", "--quiet"]
    outcome = command("infer-volume", *words, "--model", model)
    assert outcome.status == 2
    require_one_line(outcome.lines, model, fact=fact, mend="")
    assert names_in(folder / "out") == set()


@provokes("hostile checkpoint", "renamed pickle")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_renamed_safetensors_executes_nothing(
    payload: str, tmp_path: Path, mark: Path, command: Command
) -> None:
    run = signed(save_run(tmp_path / "run"), PAYLOADS[payload](mark))
    require_model_refused(command, tmp_path, run, fact="not a safetensors file")
    make_store(tmp_path / "store")
    outcome = train_fold(command, tmp_path, "--start-from", run)
    assert outcome.status == 2
    require_one_line(outcome.lines, run, fact="not a safetensors file", mend="")
    assert not mark.exists()


@provokes("hostile checkpoint", "lying header")
@pytest.mark.parametrize("lie", LYING_HEADERS)
def test_a_header_that_lies_is_one_line(lie: str, tmp_path: Path, command: Command) -> None:
    run = signed(save_run(tmp_path / "run"), LYING_HEADERS[lie])
    require_model_refused(command, tmp_path, run, fact="not a safetensors file")


@provokes("hostile checkpoint", "pth")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pth_executes_nothing(payload: str, tmp_path: Path, mark: Path, command: Command) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(PAYLOADS[payload](mark))
    require_model_refused(command, tmp_path, evil, fact="not a checkpoint of samcancer")
    make_store(tmp_path / "store", size=64)
    encoder = ["--set", "model.encoder=medsam_lite", "--set", "model.image_size=64"]
    more = ["--set", f"model.encoder_checkpoint={evil}", "--set", "model.interaction=ladder"]
    outcome = train_fold(command, tmp_path, *encoder, *more)
    assert outcome.status == 2
    require_one_line(outcome.lines, evil, fact="not a readable checkpoint", mend="SHA-256")
    assert not mark.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_resume_file_with_a_matching_hash_executes_nothing(
    payload: str, tmp_path: Path, mark: Path, command: Command
) -> None:
    make_store(tmp_path / "store")
    content = PAYLOADS[payload](mark)
    path = tmp_path / "runs" / "fold_0" / "resume.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    outcome = train_fold(command, tmp_path, "--resume")
    assert outcome.status == 2
    require_one_line(outcome.lines, path, fact="not a state of training", mend="train anew")
    assert not mark.exists()


def test_text_embeddings_that_are_a_pickle_execute_nothing(
    tmp_path: Path, mark: Path, command: Command, model: Path
) -> None:
    evil, scan = tmp_path / "text.safetensors", good_scan(tmp_path / "scan.nii.gz")
    evil.write_bytes(plain_pickle(mark))
    words = ["--input", scan, "--output", tmp_path / "out", "--device", "cpu", "--quiet"]
    words += ["--model", model, "--ask", "liver_lesion", "--text-embeddings", evil]
    outcome = command("infer-volume", *words)
    assert outcome.status == 2
    require_one_line(outcome.lines, evil, fact="", mend="")
    assert not mark.exists()


def bomb(*, levels: int = 12) -> str:
    """Few lines of aliases that stand for 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{inner}]")
    return "\n".join(lines)


YAML_FAULTS: dict[str, tuple[Callable[[Path], str], str]] = {
    "python/object/apply": (
        lambda mark: f"train: !!python/object/apply:os.system ['touch {mark}']",
        "could not determine a constructor",
    ),
    "python/name": (
        lambda mark: "train: !!python/name:os.system ''",
        "could not determine a constructor",
    ),
    "python/object/new": (
        lambda mark: f"!!python/object/new:type [x, !!python/tuple [], {{a: {mark}}}]",
        "could not determine a constructor",
    ),
    "aliases": (lambda mark: bomb(), "stand for more than 200000 values"),
    "merged aliases": (
        lambda mark: bomb() + "\nb: {<<: [{k: *a11}, {l: *a11}]}",
        "stand for more than 200000 values",
    ),
    "a value in itself": (lambda mark: "train: &a [*a]", "a value holds itself"),
    "nesting without end": (lambda mark: "[" * 1000, "nested too deeply"),
    "a number without end": (lambda mark: "train: " + "9" * 10_000, "not valid YAML"),
    "a day that is none": (lambda mark: "train: 2026-02-31", "not valid YAML"),
    "too long": (lambda mark: "# " + "x" * 2_000_000, "not YAML of up to 1000000 characters"),
    "two documents": (lambda mark: "a: 1\n---\nb: 2", "not valid YAML"),
}


@pytest.mark.parametrize("fault", YAML_FAULTS)
def test_a_hostile_configuration_and_taxonomy_are_one_line_each(
    fault: str, tmp_path: Path, mark: Path, command: Command
) -> None:
    text, fact = YAML_FAULTS[fault]
    path = tmp_path / "hostile.yaml"
    path.write_text(text(mark))
    words = ["--data", tmp_path / "none", "--output", tmp_path / "runs", "--fold", "0", "--quiet"]
    outcome = command("train-fold", *words, "--config", path)
    assert outcome.status == 2
    require_one_line(outcome.lines, path, fact=fact, mend="")
    outcome = prepare(command, tmp_path, tmp_path / "store", "--taxonomy", path)
    assert outcome.status == 2
    require_one_line(outcome.lines, path, fact=fact, mend="docs/data_sets.md")
    assert not (tmp_path / "store").exists()
    assert not mark.exists()


@pytest.mark.parametrize("fault", ["python/object/apply", "a value in itself", "aliases"])
def test_a_hostile_value_of_an_option_is_one_line(
    fault: str, tmp_path: Path, mark: Path, command: Command
) -> None:
    value = YAML_FAULTS[fault][0](mark).removeprefix("train: ")
    words = ["--data", tmp_path / "none", "--output", tmp_path / "runs", "--fold", "0", "--quiet"]
    outcome = command("train-fold", *words, "--set", f"train.epochs={value}")
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert outcome.lines[0].startswith("error: --set train.epochs: ")
    assert not mark.exists()


@provokes("hostile checkpoint", "taxonomy")
@pytest.mark.parametrize("fault", ["python/object/apply", "aliases", "a value in itself"])
def test_a_hostile_taxonomy_in_a_checkpoint_is_one_line(
    fault: str, tmp_path: Path, mark: Path, command: Command
) -> None:
    run = save_run(tmp_path / "run")
    meta = read_checkpoint_meta(run / "best")
    write_sealed_json(run / "best.json", {**meta, "taxonomy_yaml": YAML_FAULTS[fault][0](mark)})
    require_model_refused(command, tmp_path, run, fact=f"its taxonomy is .*{YAML_FAULTS[fault][1]}")
    assert not mark.exists()


@provokes("hostile checkpoint", "taxonomy")
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b"])
def test_a_class_whose_name_is_a_path_names_no_file(
    name: str, tmp_path: Path, command: Command
) -> None:
    run = save_run(tmp_path / "run", classes=(name, "kidney_lesion"))
    scan = good_scan(tmp_path / "in" / "scan.nii.gz")
    words = ["--input", scan, "--output", tmp_path / "out", "--device", "cpu", "--quiet"]
    before = names_in(tmp_path)
    outcome = command("infer-volume", *words, "--model", run, "--per-class")
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert f"has no class {name!r}" in outcome.lines[0]
    assert names_in(tmp_path) == before
    meta = read_checkpoint_meta(run / "best")
    text = f"classes: {{{json.dumps(name)}: {{kind: lesion}}, kidney_lesion: {{kind: lesion}}}}"
    write_sealed_json(run / "best.json", {**meta, "taxonomy_yaml": text})
    outcome = command("infer-volume", *words, "--model", run, "--per-class")
    assert outcome.status == 2
    require_one_line(outcome.lines, run, fact="must be lower case with underscores", mend="")
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("class_names", None), ("training_patients", 3), ("taxonomy_yaml", []), ("config", "x")],
)
def test_a_json_without_its_fields_is_one_line(
    field: str, value: object, tmp_path: Path, command: Command
) -> None:
    run = save_run(tmp_path / "run")
    meta = read_checkpoint_meta(run / "best")
    write_sealed_json(run / "best.json", {**meta, field: value})
    require_model_refused(command, tmp_path, run, fact=f"its {field} is missing or no such")
