"""Checkpoints: what was trained as safetensors, everything said about it as JSON, changed as one.

``best.safetensors`` holds the trained tensors (frozen ones only when no published file can give
them back); ``best.json`` holds configuration, classes, patients and the SHA-256 of the tensors.
The JSON is written last and decides: until it names the new tensors, the old pair is valid, and
the new tensors wait under ``best.next.safetensors``. A kill at any moment leaves a valid pair.

Nothing here executes what it reads, and loading is strict: any difference of bytes, keys, shapes or
frozen weights is an error that says what differs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from samcancer import __version__
from samcancer.config import Config, ModelConfig, config_from_dict, config_to_dict
from samcancer.config.yaml_text import parse_yaml
from samcancer.errors import InputError
from samcancer.files import (
    atomic_path,
    read_sealed_json,
    sha256_of,
    write_sealed_json,
    write_text_atomic,
)
from samcancer.taxonomy import Taxonomy, load_taxonomy, taxonomy_from_dict

FORMAT_VERSION = 1
"""Of the JSON; a reader refuses any other."""

BEST = "best"
LAST = "last"

ModelBuilder = Callable[[ModelConfig, "tuple[str, ...]"], nn.Module]
"""Builds the network that a checkpoint's tensors are loaded into, frozen weights included."""

_MAX_NAMED = 4
"""Differing keys a message names before it counts the rest."""

_RETRAIN = "use the checkpoint of the same configuration, or train again"


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """What a checkpoint says about itself."""

    config: Config
    class_names: tuple[str, ...]
    run: str = ""
    """Name of the run folder, such as ``fold_0`` or ``final``."""
    fold: int | None = None
    """The fold that was held out; None when none was."""
    training_patients: tuple[str, ...] = ()
    held_out_patients: tuple[str, ...] = ()
    store_fingerprint: str = ""
    pseudo_labels_fingerprint: str | None = None
    """None when trained on people's labels alone."""
    taxonomy_yaml: str = ""
    """Text of the store's taxonomy; empty for the packaged one."""
    encoder_sha256: str | None = None
    """Of the published encoder file; None when the encoder started from random weights."""
    started_from: str | None = None
    """SHA-256 of the tensors that training started from; None for fresh weights."""
    text: dict[str, Any] | None = None
    """``source`` of the text embeddings that the class prompts were read from; None without any."""
    presence_thresholds: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    """Validation results; no times, so that equal runs write equal bytes."""


@dataclass(frozen=True)
class LoadedModel:
    """A network with everything that prediction needs to know of it."""

    model: nn.Module
    config: Config
    class_names: tuple[str, ...]
    presence_thresholds: dict[str, float]
    meta: dict[str, Any]
    """The JSON as it was written."""
    sha256: str
    """Of the tensor file."""
    taxonomy: Taxonomy


def save_checkpoint(stem: Path, model: nn.Module, meta: CheckpointMeta) -> str:
    """Write ``<stem>.safetensors`` and ``<stem>.json``; return the SHA-256 of the former.

    Args:
        stem: Path without suffix, such as ``RUNS/fold_0/best``.
        model: Its trained parameters and its buffers are written; frozen parameters too when
            ``meta.encoder_sha256`` is None and no file could give them back.
        meta: What the JSON says.
    """
    saved, omitted = split_state(model, omit_frozen=meta.encoder_sha256 is not None)
    waiting = _waiting_path(stem)
    # as bytes: safetensors' own writer leaves a temporary of its own name when it is killed
    data = safetensors_bytes(saved)
    with atomic_path(waiting, expected_bytes=len(data)) as temporary:
        temporary.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    content = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "safetensors_sha256": sha256,
        "frozen_sha256": tensors_sha256(omitted),
        **dataclasses.asdict(meta),
        "config": config_to_dict(meta.config),
    }
    write_sealed_json(json_path(stem), content)
    waiting.replace(tensor_path(stem))
    return sha256


def load_checkpoint(
    path: Path, *, device: torch.device | str = "cpu", build: ModelBuilder | None = None
) -> LoadedModel:
    """Load a run's best model, or the checkpoint of a ``.safetensors`` file, ready to predict.

    Args:
        path: Run folder (its ``best`` is taken), or a ``.safetensors`` file beside its JSON.
        device: Where the network is put.
        build: Builds the network; None builds the SAMCancer network of the stored configuration.

    Raises:
        InputError: When the checkpoint is missing, damaged, incomplete or of another network.
    """
    stem = checkpoint_stem(path)
    meta = read_checkpoint_meta(stem)
    tensors, read_path = _read_tensors(stem, meta)
    config = _stored_config(meta, stem)
    class_names = tuple(meta["class_names"])
    model = (build or functools.partial(_build_default, meta.get("text")))(
        config.model, class_names
    )
    _load_strictly(model, tensors, meta, read_path)
    return LoadedModel(
        model=model.to(device).eval(),
        config=config,
        class_names=class_names,
        presence_thresholds={k: float(v) for k, v in meta["presence_thresholds"].items()},
        meta=meta,
        sha256=meta["safetensors_sha256"],
        taxonomy=_stored_taxonomy(meta, stem),
    )


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors and what its JSON says, without building its network.

    Raises:
        InputError: When the checkpoint is missing or damaged.
    """
    stem = checkpoint_stem(path)
    meta = read_checkpoint_meta(stem)
    return _read_tensors(stem, meta)[0], meta


def copy_checkpoint(source: Path, target: Path) -> dict[str, Any]:
    """Copy a run's best model, or a ``.safetensors`` file with its JSON; return what it says.

    Args:
        source: As for :func:`load_checkpoint`.
        target: Path without suffix; the JSON is written last.

    Raises:
        InputError: When the checkpoint is missing or damaged, or the disk is too full.
    """
    stem = checkpoint_stem(source)
    meta = read_checkpoint_meta(stem)
    tensors = _tensor_file(stem, meta)
    text = json_path(stem).read_text(encoding="utf-8")

    def verify(copied: Path) -> None:
        if sha256_of(copied) != meta["safetensors_sha256"]:
            raise InputError("was not copied whole", path=tensors, mend="run the command again")

    expected_bytes = tensors.stat().st_size
    with atomic_path(tensor_path(target), expected_bytes=expected_bytes, verify=verify) as copied:
        shutil.copyfile(tensors, copied)
    write_text_atomic(json_path(target), text)
    return meta


def checkpoint_stem(path: Path) -> Path:
    """Return the path without suffix of the checkpoint that a user means by ``path``.

    Raises:
        InputError: When there is no such folder or file, or it is not a checkpoint.
    """
    if path.is_dir():
        if not (path / f"{BEST}.json").exists():
            raise InputError(
                "holds no finished training (no best.json)",
                path=path,
                mend="name a run folder such as RUNS/final, or train first",
            )
        return path / BEST
    if not path.exists():
        raise InputError(
            "no such run folder or checkpoint",
            path=path,
            mend="name a run folder or a .safetensors file",
        )
    if path.suffix != ".safetensors":
        raise InputError(
            f"not a checkpoint of samcancer (suffix {path.suffix!r})",
            path=path,
            mend="name a run folder or a .safetensors file",
        )
    return path.with_suffix("")


def tensor_path(stem: Path) -> Path:
    """Return the tensor file of a checkpoint."""
    return stem.with_name(f"{stem.name}.safetensors")


def json_path(stem: Path) -> Path:
    """Return the JSON of a checkpoint."""
    return stem.with_name(f"{stem.name}.json")


def read_checkpoint_meta(stem: Path) -> dict[str, Any]:
    """Read and check a checkpoint's JSON without its tensors.

    Raises:
        InputError: When it is missing, changed since it was written, or of another format.
    """
    path = json_path(stem)
    content, _ = read_sealed_json(
        path,
        kind="checkpoint",
        key="frozen_sha256",
        version=FORMAT_VERSION,
        mend="copy it again, or train again",
    )
    _require_fields(content, path)
    return content


def split_state(
    model: nn.Module, *, omit_frozen: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return copies on the CPU of the tensors to save, and of those a published file gives back."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
    }
    omitted = {k: v for k, v in state.items() if omit_frozen and k in frozen}
    return {k: v for k, v in state.items() if k not in omitted}, omitted


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str | None:
    """Return a SHA-256 over names and values; None for no tensors."""
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _waiting_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.next.safetensors")


def _read_tensors(stem: Path, meta: Mapping[str, Any]) -> tuple[dict[str, Tensor], Path]:
    path = _tensor_file(stem, meta)
    try:
        return load_file(path), path
    except SafetensorError as error:
        raise InputError(f"not a safetensors file ({error})", path=path, mend=_RETRAIN) from None


def _tensor_file(stem: Path, meta: Mapping[str, Any]) -> Path:
    """Return the tensor file that the JSON names by its hash."""
    final = tensor_path(stem)
    candidates = [path for path in (final, _waiting_path(stem)) if path.exists()]
    if not candidates:
        raise InputError("no such file", path=final, mend="copy it beside its .json")
    for path in candidates:
        if sha256_of(path) == meta["safetensors_sha256"]:
            return path
    raise InputError(
        "damaged, or not the file that its .json was written for (SHA-256 differs)",
        path=final,
        mend="copy both files again, or train again",
    )


def _stored_config(meta: Mapping[str, Any], stem: Path) -> Config:
    try:
        return config_from_dict(meta["config"])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"configuration of another version ({error})",
            path=json_path(stem),
            mend=f"use samcancer {meta.get('version')}",
        ) from None


def _load_strictly(
    model: nn.Module, tensors: dict[str, Tensor], meta: Mapping[str, Any], path: Path
) -> None:
    expected, omitted = split_state(model, omit_frozen=meta["frozen_sha256"] is not None)
    differences = [
        *_named("lacks", expected.keys() - tensors.keys()),
        *_named("has besides", tensors.keys() - expected.keys()),
        *_named(
            "has in another shape or type",
            [
                f"{name} {_kind(tensors[name])} instead of {_kind(expected[name])}"
                for name in expected.keys() & tensors.keys()
                if _kind(tensors[name]) != _kind(expected[name])
            ],
        ),
    ]
    if differences:
        raise InputError(
            f"is of another network: it {'; it '.join(differences)}", path=path, mend=_RETRAIN
        )
    if tensors_sha256(omitted) != meta["frozen_sha256"]:
        raise InputError(
            "was trained with other frozen encoder weights (their SHA-256 differs)",
            path=path,
            mend="set model.encoder_checkpoint to the file it was trained with",
        )
    model.load_state_dict({**omitted, **tensors}, strict=True)


def _require_fields(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a JSON that lacks what every checkpoint says, or says it in another form."""
    expected: dict[str, Any] = {
        "safetensors_sha256": str,
        "config": dict,
        "class_names": list,
        "training_patients": list,
        "held_out_patients": list,
        "presence_thresholds": dict,
        "taxonomy_yaml": str,
        "frozen_sha256": (str, type(None)),
        "store_fingerprint": str,
    }
    for name, kind in expected.items():
        if not isinstance(content.get(name, ...), kind):
            raise InputError(f"its {name} is missing or no such", path=path, mend=_RETRAIN)


def _named(verb: str, names: Any) -> list[str]:
    ordered = sorted(names)
    if not ordered:
        return []
    rest = len(ordered) - _MAX_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return [f"{verb} {', '.join(ordered[:_MAX_NAMED])}{more}"]


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _stored_taxonomy(meta: Mapping[str, Any], stem: Path) -> Taxonomy:
    path, text = json_path(stem), meta["taxonomy_yaml"]
    if not text:
        return load_taxonomy()
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"its taxonomy is {error}", path=path, mend=_RETRAIN) from None
    if not isinstance(content, dict):
        raise InputError("its taxonomy is no mapping", path=path, mend=_RETRAIN)
    return taxonomy_from_dict(content, path=path)


def _build_default(
    text: Mapping[str, Any] | None, config: ModelConfig, class_names: tuple[str, ...]
) -> nn.Module:
    from samcancer.training.network import blank_text, build_network

    blank = None if text is None else blank_text(len(class_names), int(text["dim"]))
    return build_network(config, class_names, text=blank)
