"""Text towers of CLIP models: from prompts to unit vectors. The only module that needs open_clip.

A tower is named in one of three ways; its weights are read from a file and never downloaded:
    a name of the registry with ``open_clip`` (clip_vit_b_32): the verified file of the checkpoints
    a model of open_clip (ViT-B-32) with a weight file: OpenAI's, open_clip's, or safetensors
    ``local-dir:FOLDER``: open_clip_config.json, weights and, for a tower of Hugging Face
        (BiomedCLIP), its tokenizer and the config.json of its text model
open_clip itself would resize position embeddings that do not fit, shorten long prompts and ask the
Hugging Face hub; here all three are refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.errors import InputError
from samcancer.files import read_json, sha256_of
from samcancer.pretrained.fetching import checkpoint_sha256, verify
from samcancer.pretrained.registry import find_checkpoint, load_registry
from samcancer.pretrained.text_embeddings import LOCAL_DIR
from samcancer.pretrained.weight_files import first_line, read_weights

CONFIG_FILE = "open_clip_config.json"

_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of the weights in a folder; the first that is there counts, as in open_clip."""

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Names of a Hugging Face vocabulary; without one, transformers 5 takes an empty one, silently."""

_SETTINGS = (".json", ".txt", ".model")
"""Suffixes of the files of a folder that decide, beside the weights, what a prompt becomes."""

_DIGEST_DIGITS = 12

_OPENAI_MARK = "input_resolution"
"""Entry that only OpenAI's files have."""

_NOT_WEIGHTS = {
    _OPENAI_MARK,
    "context_length",
    "vocab_size",
    "text.transformer.embeddings.position_ids",
}
"""Entries of official files that are no weights: OpenAI's sizes, and the counter of older BERTs."""

_LOSS_ONLY = ("logit_scale", "logit_bias")
"""Weights that no embedding depends on; their shape differs between versions of open_clip."""

_OTHER_TOWER = "choose another --tower"

_CANNOT_BUILD = (TypeError, ValueError, LookupError, RuntimeError, OSError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """A text tower whose weights are there."""

    name: str
    """What embeddings record; a folder's has a hash of its settings and not its path."""
    weights: Path
    weights_sha256: str
    model: str | None = None
    """open_clip's name of the model; None for a folder."""
    folder: Path | None = None


def find_tower(tower: str, weights: Path | None = None) -> TextTower:
    """Find a tower and hash its weights; a file of the registry must be the published one.

    Args:
        tower: Name of the registry, model of open_clip, or ``local-dir:FOLDER``.
        weights: Weight file; None takes the registry's, or the one in the folder.

    Raises:
        InputError: When there is no such tower, or its weights are missing or not the published.
    """
    if weights is not None and not weights.is_file():
        raise InputError("no such file", path=weights, mend="check --weights")
    if tower.startswith(LOCAL_DIR):
        return _tower_in(Path(tower.removeprefix(LOCAL_DIR)), weights)
    if ":" in tower:
        raise InputError(
            f"nothing is downloaded for {tower!r}",
            mend=f"bring its files in a folder and give {LOCAL_DIR}FOLDER",
        )
    published = load_registry().get(tower)
    if published is None:
        if weights is None:
            raise InputError(
                f"{tower!r} is not in the registry, so its weights must be named",
                mend=f"give --weights FILE, or choose from {', '.join(_towers_of_registry())}",
            )
        return TextTower(
            name=tower, model=tower, weights=weights, weights_sha256=sha256_of(weights)
        )
    if published.open_clip is None:
        raise InputError(
            f"{tower} has no text tower", mend=f"choose from {', '.join(_towers_of_registry())}"
        )
    if weights is not None:
        verify(published, weights)
    return TextTower(
        name=tower,
        model=published.open_clip,
        weights=find_checkpoint(tower) if weights is None else weights,
        weights_sha256=checkpoint_sha256(tower) if weights is None else published.sha256,
    )


def embed_prompts(prompts: Sequence[str], *, tower: TextTower) -> NDArray[np.float32]:
    """Return the embeddings of prompts, (K, D), each of length 1, computed on the CPU.

    Raises:
        InputError: When the tower cannot be built, its weights do not fit, or a prompt is too long.
        ValueError: When there is no prompt.
    """
    if not prompts:
        raise ValueError("prompts must not be empty")
    open_clip = _offline_open_clip()
    config = _model_config(tower, open_clip)
    model = _build(config, tower, open_clip)
    _load(model, config, tower, open_clip)
    tokens = _tokens(prompts, config["text_cfg"], model, tower, open_clip)
    model.requires_grad_(False).eval()
    with torch.no_grad():
        vectors = model.encode_text(tokens).double().numpy()
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise InputError(
            "its embeddings are zero or not finite",
            path=tower.weights,
            mend="give the weights that the model was published with",
        )
    return np.asarray(vectors / lengths, dtype=np.float32)


def _towers_of_registry() -> list[str]:
    return [name for name, entry in load_registry().items() if entry.open_clip is not None]


def _tower_in(folder: Path, weights: Path | None) -> TextTower:
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            "no such file",
            path=folder / CONFIG_FILE,
            mend=f"give {LOCAL_DIR}FOLDER with a folder of open_clip",
        )
    found = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()]
    if weights is None and not found:
        raise InputError(
            "holds no weights of open_clip",
            path=folder,
            mend=f"name the file with --weights, or rename it to {_WEIGHT_FILES[0]}",
        )
    chosen = found[0] if weights is None else weights
    settings = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _SETTINGS and p.is_file()):
        settings.update(f"{path.name} {sha256_of(path)}\n".encode())
    return TextTower(
        name=f"{LOCAL_DIR}{folder.resolve().name}@{settings.hexdigest()[:_DIGEST_DIGITS]}",
        folder=folder,
        weights=chosen,
        weights_sha256=sha256_of(chosen),
    )


def _offline_open_clip() -> Any:
    """Import open_clip with the Hugging Face hub off, as a second lock: only paths are passed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import open_clip

    return open_clip


def _model_config(tower: TextTower, open_clip: Any) -> dict[str, Any]:
    """Return the arguments of the model, in which nothing is left to download.

    Raises:
        InputError: When there is no such model, or it needs what is not there.
    """
    config = _named_config(tower, open_clip) if tower.folder is None else _folder_config(tower)
    text, vision = config["text_cfg"], config["vision_cfg"]
    if (text.get("tokenizer_kwargs") or {}).get("reduction_mask"):
        raise InputError(f"{tower.name} drops words of a prompt at random", mend=_OTHER_TOWER)
    if "multimodal_cfg" in config:
        raise InputError(f"{tower.name} is a CoCa model, which is not read", mend=_OTHER_TOWER)
    if ":" in str(vision.get("timm_model_name")):
        raise InputError(
            f"{tower.name} has the image tower {vision['timm_model_name']!r}, which is not local",
            mend=_OTHER_TOWER,
        )
    vision.pop("timm_model_pretrained", None)
    if _of_hugging_face(text) and importlib.util.find_spec("transformers") is None:
        raise InputError(
            f"{tower.name} needs the package transformers", mend="run `pip install transformers`"
        )
    return config


def _of_hugging_face(text: dict[str, Any]) -> bool:
    return bool(text.get("hf_model_name") or text.get("hf_tokenizer_name"))


def _named_config(tower: TextTower, open_clip: Any) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(tower.model)
    if config is None:
        raise InputError(
            f"open_clip has no model {tower.model!r}",
            mend=f"choose one of open_clip.list_models() or of {', '.join(_towers_of_registry())}",
        )
    if _of_hugging_face(config["text_cfg"]) or "siglip" in str(tower.model).lower():
        raise InputError(
            f"{tower.model} has a tokenizer that open_clip would download",
            mend=f"bring weights, {CONFIG_FILE} and tokenizer in a folder, {LOCAL_DIR}FOLDER",
        )
    return config


def _folder_config(tower: TextTower) -> dict[str, Any]:
    folder = tower.folder or Path()
    path = folder / CONFIG_FILE
    content = read_json(path)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not all(
        isinstance(config.get(name), dict) for name in ("text_cfg", "vision_cfg")
    ):
        raise InputError(
            "has no model_cfg with text_cfg and vision_cfg",
            path=path,
            mend="take the file that was published with the weights",
        )
    _require_files_of_hugging_face(folder, config["text_cfg"])
    if config["text_cfg"].get("hf_model_name"):
        config["text_cfg"].update(hf_model_name=str(folder), hf_model_pretrained=False)
    return config


def _require_files_of_hugging_face(folder: Path, text: dict[str, Any]) -> None:
    """Refuse a folder without a file that transformers would look for elsewhere, or with code."""
    if text.get("hf_model_name") and not (folder / "config.json").is_file():
        raise InputError(
            "no such file",
            path=folder / "config.json",
            mend=f"copy the config.json of {text['hf_model_name']} there",
        )
    if text.get("hf_tokenizer_name") and not any((folder / n).is_file() for n in _VOCABULARIES):
        raise InputError(
            "holds no tokenizer",
            path=folder,
            mend=f"copy the tokenizer's files of {text['hf_tokenizer_name']} there",
        )
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise InputError(
                "names Python code of its own, which is not run",
                path=folder / name,
                mend=_OTHER_TOWER,
            )


def _build(config: dict[str, Any], tower: TextTower, open_clip: Any) -> Any:
    """Build the whole model, so that its weight file can be checked to the last entry."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    custom = config.get("custom_text") or config["text_cfg"].get("hf_model_name")
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with torch.random.fork_rng(devices=[]):
            return kind(**arguments)
    except _CANNOT_BUILD as error:
        raise InputError(
            f"open_clip cannot build {tower.name} ({first_line(error)})", mend=_OTHER_TOWER
        ) from None


def _load(model: nn.Module, config: dict[str, Any], tower: TextTower, open_clip: Any) -> None:
    """Load a weight file that has every weight of the model in its shape, and no other.

    Raises:
        InputError: When it differs.
    """
    state = read_weights(tower.weights)
    if _OPENAI_MARK in state and not config.get("quick_gelu"):
        raise InputError(
            f"a file of OpenAI's, which is for QuickGELU, and {tower.name} has another activation",
            path=tower.weights,
            mend="give the -quickgelu model with --tower",
        )
    if isinstance(model, open_clip.CustomTextCLIP):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    found = {k: v for k, v in state.items() if k in wanted or k not in _NOT_WEIGHTS}
    found.update({name: wanted[name] for name in _LOSS_ONLY if name in wanted})
    differences = [
        *(f"it lacks {k}" for k in wanted if k not in found),
        *(f"it has {k} besides" for k in found if k not in wanted),
        *(
            f"{k} has shape {tuple(found[k].shape)}, not {tuple(wanted[k].shape)}"
            for k in wanted
            if k in found and found[k].shape != wanted[k].shape
        ),
    ]
    if differences:
        raise InputError(
            f"not the weights of {tower.name}: {differences[0]}, and"
            f" {len(differences) - 1} more differences",
            path=tower.weights,
            mend="name the model of these weights with --tower",
        )
    model.load_state_dict(found)


def _tokens(
    prompts: Sequence[str],
    text: dict[str, Any],
    model: Any,
    tower: TextTower,
    open_clip: Any,
) -> Tensor:
    """Return the tokens of prompts, (K, context length), none of them cut.

    Raises:
        InputError: When a prompt is too long, or the tokenizer is not the model's.
    """
    tokenizer = _tokenizer(text, tower, open_clip)
    for prompt in prompts:
        count = _token_count(prompt, tokenizer)
        if count > tokenizer.context_length:
            raise InputError(
                f"the prompt {prompt!r} has {count} tokens, {tower.name} takes"
                f" {tokenizer.context_length}",
                mend="shorten it",
            )
    tokens: Tensor = tokenizer(list(prompts))
    if int(tokens.max()) >= model.vocab_size:
        raise InputError(
            f"the tokenizer has more than the {model.vocab_size} tokens of {tower.name}",
            path=tower.folder,
            mend="bring the tokenizer that was published with the weights",
        )
    return tokens


def _tokenizer(text: dict[str, Any], tower: TextTower, open_clip: Any) -> Any:
    """Return the tokenizer that open_clip.get_tokenizer gives, from the folder and nowhere else."""
    settings = {
        **(text.get("tokenizer_kwargs") or {}),
        "context_length": text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
    }
    try:
        if not text.get("hf_tokenizer_name"):
            return open_clip.SimpleTokenizer(**settings)
        settings |= {"tokenizer_mode": text.get("tokenizer_mode")}
        settings |= {"local_files_only": True, "trust_remote_code": False}
        return open_clip.tokenizer.HFTokenizer(str(tower.folder), **settings)
    except (*_CANNOT_BUILD, ImportError) as error:
        raise InputError(
            f"{tower.name} has no usable tokenizer ({first_line(error)})",
            path=tower.folder,
            mend="bring the tokenizer's files that were published with the weights",
        ) from None


def _token_count(prompt: str, tokenizer: Any) -> int:
    """Return the length of a prompt before it is cut, its start and end included."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(prompt)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(prompt))["input_ids"])
