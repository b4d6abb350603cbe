from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallNet, small_config, small_net
from damage import damaged_copies
from memory_store import CLASS_NAMES
from reliability_figures import Tally
from safetensors.torch import load_file
from torch import nn

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.files import temporary_path_for, write_sealed_json
from samcancer.training.checkpoint import (
    CheckpointMeta,
    load_checkpoint,
    read_checkpoint_meta,
    save_checkpoint,
)
from samcancer.training.resume import RESUME_NAME, read_resume, write_resume

META = CheckpointMeta(
    config=small_config(),
    class_names=CLASS_NAMES,
    fold=1,
    training_patients=("p1", "p2"),
    presence_thresholds={"liver_lesion": 0.35, "kidney_lesion": 0.5},
    metrics={"score": 0.25},
)


def build(_config: ModelConfig, class_names: tuple[str, ...]) -> nn.Module:
    return SmallNet(len(class_names))


def saved(folder: Path, meta: CheckpointMeta = META) -> Path:
    save_checkpoint(folder / "best", small_net(), meta)
    return folder


def test_a_saved_network_comes_back_bit_for_bit_with_all_that_was_said(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path), build=build)
    before, after = small_net().state_dict(), loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.config == META.config
    assert loaded.class_names == CLASS_NAMES
    assert loaded.presence_thresholds == META.presence_thresholds
    assert loaded.meta["training_patients"] == ["p1", "p2"]
    assert not loaded.model.training


def test_the_default_builder_restores_the_samcancer_network(tmp_path: Path) -> None:
    from samcancer.training.network import build_network

    config = small_config()
    model = build_network(config.model, CLASS_NAMES, seed=1)
    save_checkpoint(
        tmp_path / "best", model, CheckpointMeta(config=config, class_names=CLASS_NAMES)
    )
    loaded = load_checkpoint(tmp_path / "best.safetensors")
    chunk = torch.rand(1, 5, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(chunk).mask_logits, model.eval()(chunk).mask_logits)


def test_equal_networks_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name)
    for file in ("best.safetensors", "best.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_frozen_weights_of_a_published_file_are_left_out_and_checked(tmp_path: Path) -> None:
    published = CheckpointMeta(
        config=small_config(), class_names=CLASS_NAMES, encoder_sha256="0" * 64
    )
    saved(tmp_path, published)
    assert not any(name.startswith("frozen") for name in load_file(tmp_path / "best.safetensors"))

    def with_other_frozen_weights(config: ModelConfig, names: tuple[str, ...]) -> nn.Module:
        model = small_net()
        nn.init.zeros_(model.frozen.weight)
        return model

    load_checkpoint(tmp_path, build=lambda config, names: small_net())
    with pytest.raises(InputError, match="other frozen encoder weights"):
        load_checkpoint(tmp_path, build=with_other_frozen_weights)


def test_a_network_of_other_classes_is_refused_with_the_tensors_that_differ(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"head.bias \(2,\) float32 instead of \(3,\) float32"):
        load_checkpoint(saved(tmp_path), build=lambda config, names: SmallNet(3))


def test_a_network_with_other_parts_is_refused_with_their_names(tmp_path: Path) -> None:
    def other(config: ModelConfig, names: tuple[str, ...]) -> nn.Module:
        model = SmallNet()
        model.extra = nn.Linear(2, 2)
        del model.mix
        return model

    with pytest.raises(InputError, match=r"lacks extra\.bias, extra\.weight; it has besides mix"):
        load_checkpoint(saved(tmp_path), build=other)


def test_a_kill_between_the_two_files_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    old = (tmp_path / "best.safetensors").read_bytes()
    newer = small_net()
    nn.init.ones_(newer.head.bias)
    save_checkpoint(tmp_path / "best", newer, META)
    # as a kill after the JSON was written, before the tensors took their place
    (tmp_path / "best.safetensors").rename(tmp_path / "best.next.safetensors")
    (tmp_path / "best.safetensors").write_bytes(old)
    loaded = load_checkpoint(tmp_path, build=build)
    assert torch.equal(loaded.model.head.bias, torch.ones(2))


def test_a_kill_before_the_json_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "best.next.safetensors").write_bytes(b"half written")
    temporary_path_for(tmp_path / "best.json").write_bytes(b"{")
    loaded = load_checkpoint(tmp_path, build=build)
    assert torch.equal(loaded.model.head.bias, small_net().head.bias)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished training"):
        load_checkpoint(tmp_path, build=build)
    with pytest.raises(InputError, match="no such run folder"):
        load_checkpoint(tmp_path / "absent", build=build)
    saved(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(InputError, match=r"best\.safetensors: no such file"):
        load_checkpoint(tmp_path, build=build)


def test_another_kind_of_file_is_refused_by_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"suffix '\.pth'"):
        load_checkpoint(path, build=build)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "best.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        load_checkpoint(tmp_path, build=build)


@pytest.mark.figure("artefacts", "checkpoint: {name}")
@pytest.mark.parametrize("name", ["best.safetensors", "best.json"])
def test_every_flipped_bit_of_a_checkpoint_is_detected(
    name: str, tally: Tally, tmp_path: Path
) -> None:
    with damaged_copies(saved(tmp_path) / name) as copies:
        for seed in tally.trials():
            copies.flip_a_bit(seed)
            with pytest.raises(InputError):
                load_checkpoint(tmp_path, build=build)
    load_checkpoint(tmp_path, build=build)


@pytest.mark.figure("corruption", "checkpoint: {name}")
@pytest.mark.parametrize("name", ["best.safetensors", "best.json"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    name: str, tally: Tally, tmp_path: Path
) -> None:
    with damaged_copies(saved(tmp_path) / name) as copies:
        for seed in tally.trials():
            copies.spoil(seed)
            with pytest.raises(InputError) as caught:
                load_checkpoint(tmp_path, build=build)
            assert len(str(caught.value).splitlines()) == 1


@pytest.mark.figure("artefacts", "resume state")
def test_every_flipped_bit_of_a_resume_state_is_detected(tally: Tally, tmp_path: Path) -> None:
    write_resume(tmp_path, {"position": {"epoch": 3}, "weights": torch.rand(50)})
    with damaged_copies(tmp_path / RESUME_NAME) as copies:
        for seed in tally.trials():
            copies.flip_a_bit(seed)
            with pytest.raises(InputError):
                read_resume(tmp_path)
    assert read_resume(tmp_path)["position"] == {"epoch": 3}


class _Hostile:
    """Pickles into a call that leaves a mark in the file system."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def hostile_files(mark: Path) -> dict[str, bytes]:
    """Ten pickles, plain and inside torch's formats, each of which would create ``mark``."""
    touch = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    objects: list[Any] = [
        _Hostile(os.system, touch),
        _Hostile(exec, code),
        _Hostile(eval, f"open({str(mark)!r}, 'w')"),
        {"model": _Hostile(os.mkdir, str(mark))},
        [_Hostile(os.makedirs, str(mark))],
    ]
    files = {f"pickle {i}": pickle.dumps(item) for i, item in enumerate(objects)}
    for i, item in enumerate(objects):
        buffer = io.BytesIO()
        torch.save(item, buffer, _use_new_zipfile_serialization=i % 2 == 0)
        files[f"torch {i}"] = buffer.getvalue()
    return files


@pytest.mark.figure("hostile")
@pytest.mark.parametrize("name", sorted(hostile_files(Path("mark"))))
def test_a_hostile_file_executes_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    content = hostile_files(mark)[name]
    saved(tmp_path)
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(InputError):
        load_checkpoint(tmp_path, build=build)
    _sign_resume(tmp_path, content)
    with pytest.raises(InputError, match="not a state of training"):
        read_resume(tmp_path)
    assert not mark.exists()


def test_a_hostile_file_with_a_matching_hash_executes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for content in hostile_files(mark).values():
        saved(tmp_path)
        _sign_checkpoint(tmp_path, content)
        with pytest.raises(InputError, match="not a safetensors file"):
            load_checkpoint(tmp_path, build=build)
    assert not mark.exists()


def _sign_resume(folder: Path, content: bytes) -> None:
    import hashlib

    digest = hashlib.sha256(content).hexdigest().encode()
    (folder / RESUME_NAME).write_bytes(digest + b"\n" + content)


def _sign_checkpoint(folder: Path, content: bytes) -> None:
    import hashlib

    meta = read_checkpoint_meta(folder / "best")
    meta["safetensors_sha256"] = hashlib.sha256(content).hexdigest()
    write_sealed_json(folder / "best.json", meta)
    (folder / "best.safetensors").write_bytes(content)


def test_a_missing_resume_state_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no state to resume from"):
        read_resume(tmp_path)
