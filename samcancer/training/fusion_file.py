"""A fusion on disk: the model of several systems in one folder that needs no other.

    FUSED/fusion.json                       classes, rules, presence thresholds, validation figures,
                                            SHA-256 of both files of every part and of itself
    FUSED/parts/0/best.safetensors, .json   the first system's final model; parts/1 the second's ...

The JSON is written last: a folder without it is no model, whatever it holds. Weights of published
encoders are left out, as in every checkpoint. Nothing here executes what it reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import (
    folder_lock,
    read_json,
    read_sealed_json,
    remove_stale_temporaries,
    sha256_of,
    write_sealed_json,
)
from samcancer.modeling.fusion import ClassRule, FusedNet
from samcancer.modeling.slice_prediction import Member
from samcancer.taxonomy import Taxonomy
from samcancer.training.checkpoint import (
    BEST,
    LoadedModel,
    ModelBuilder,
    copy_checkpoint,
    json_path,
    load_checkpoint,
)

FUSION_NAME = "fusion.json"

FORMAT_VERSION = 1
"""Of the JSON; a reader refuses any other."""

_PARTS = "parts"

_MEND = "copy the folder again, or run fit-fusion anew"


@dataclass(frozen=True)
class LoadedFusion:
    """A fusion with everything that prediction needs to know of it."""

    net: FusedNet
    presence_thresholds: dict[str, float]
    image_size: int
    taxonomy: Taxonomy
    meta: dict[str, Any]
    """The JSON as it was written."""
    sha256: str
    """Over rules, thresholds and the hashes of all parts."""


@contextlib.contextmanager
def new_fusion_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that a fusion is written into; leavings of a killed call may lie there.

    Raises:
        InputError: When it holds a fusion already, or another process writes into it.
    """
    with folder_lock(folder, purpose="fit-fusion"):
        if is_fusion(folder):
            raise InputError(
                "holds a fusion already", path=folder, mend="choose another --output or delete it"
            )
        for place in (folder, *folder.glob(f"{_PARTS}/*")):
            remove_stale_temporaries(place)
        yield


def copy_part(folder: Path, index: int, run: Path) -> dict[str, Any]:
    """Copy a system's final model into the folder; return its JSON.

    Raises:
        InputError: When the run holds no finished training, or is damaged.
    """
    return copy_checkpoint(run, _part(folder, index) / BEST)


def write_fusion(
    folder: Path,
    *,
    part_names: Sequence[str],
    rules: Mapping[str, ClassRule],
    presence_thresholds: Mapping[str, float],
    figures: Mapping[str, Any],
) -> str:
    """Write the JSON over the parts that were copied before; return the fusion's hash.

    Args:
        folder: FUSED.
        part_names: What to call the parts, in their order.
        rules: Class -> rule, in the order of the outputs.
        presence_thresholds: Class -> threshold.
        figures: What else to keep: where it was fitted and what was found.
    """
    parts = [
        {"name": name, **_hashes(_part(folder, index))} for index, name in enumerate(part_names)
    ]
    classes = {
        name: {
            **rule._asdict(),
            "text": rule.describe(part_names),
            "presence_threshold": presence_thresholds[name],
        }
        for name, rule in rules.items()
    }
    content = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "class_names": list(rules),
        "parts": parts,
        "classes": classes,
        **figures,
    }
    return write_sealed_json(folder / FUSION_NAME, content)


def is_fusion(path: Path) -> bool:
    """Return whether a path is the folder of a fusion."""
    return (path / FUSION_NAME).exists()


def load_fusion(
    folder: Path, *, device: torch.device | str = "cpu", build: ModelBuilder | None = None
) -> LoadedFusion:
    """Load a fusion, ready to predict.

    Args:
        folder: FUSED.
        device: Where the networks go.
        build: Builds the parts' networks; see :func:`load_checkpoint`.

    Raises:
        InputError: When any file is missing, damaged, changed, or not the one that was fitted.
    """
    meta, sha256 = read_sealed_json(
        folder / FUSION_NAME, kind="fusion", key="parts", version=FORMAT_VERSION, mend=_MEND
    )
    names = tuple(meta["class_names"])
    parts = []
    for index, stated in enumerate(meta["parts"]):
        path = _part(folder, index)
        part = load_checkpoint(path, device=device, build=build)
        if _hashes(path) != {key: stated[key] for key in _hashes(path)}:
            raise InputError("is not the part that was fused", path=path, mend=_MEND)
        parts.append(part)
    classes = meta["classes"]
    rules = [ClassRule(classes[n]["rule"], tuple(classes[n]["weights"])) for n in names]
    return LoadedFusion(
        net=FusedNet(names, [[_member(part)] for part in parts], rules),
        presence_thresholds={n: float(classes[n]["presence_threshold"]) for n in names},
        image_size=parts[0].config.model.image_size,
        taxonomy=parts[0].taxonomy,
        meta=meta,
        sha256=sha256,
    )


def _member(part: LoadedModel) -> Member:
    return Member(part.model, part.config.data.inference_window_hu)


def _hashes(part: Path) -> dict[str, str]:
    """Return what identifies a part: tensors and what its JSON says of them."""
    path = json_path(part / BEST)
    return {
        "safetensors_sha256": read_json(path)["safetensors_sha256"],
        "json_sha256": sha256_of(path),
    }


def _part(folder: Path, index: int) -> Path:
    return folder / _PARTS / str(index)
