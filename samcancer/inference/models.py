"""Load one trained model, or several as an ensemble, ready to segment whole scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samcancer.errors import InputError
from samcancer.inference.region import RegionModel
from samcancer.modeling.slice_prediction import Member, threshold_vector
from samcancer.pretrained.text_embeddings import TextEmbeddings
from samcancer.taxonomy import ClassSpec
from samcancer.training.checkpoint import LoadedModel, load_checkpoint

_FINAL = "final"
"""Folder, in the folder of all runs, of the model trained last."""

_BEST = "best.safetensors"
"""Weights of a run's best epoch."""


@dataclass(frozen=True)
class Ensemble:
    """Networks that share classes and stack size; one network is an ensemble of one."""

    members: tuple[Member, ...]
    classes: tuple[ClassSpec, ...]
    """In the order of the networks' outputs; label k + 1 is class k."""
    thresholds: Tensor
    """(K,) presence thresholds, averaged over the networks."""
    image_size: int
    sha256: tuple[str, ...]
    """Of each network's weights."""
    text_sha256: str | None = None
    """Of the text embeddings that the classes were asked for with; None for the trained ones."""
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Union class, such as both kidneys -> its members; the networks may predict only these."""
    region: RegionModel | None = None
    """Finds the slices worth segmenting; None segments all."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(spec.name for spec in self.classes)

    def with_threshold(self, threshold: float) -> Ensemble:
        """Return the same networks with one presence threshold for every class."""
        return dataclasses.replace(self, thresholds=torch.full_like(self.thresholds, threshold))

    def other_sides(self) -> tuple[int, ...]:
        """Return, for each class, the index of the one that it is in a mirror.

        Raises:
            InputError: When only one class of a pair is among the networks' outputs.
        """
        sides = list(range(len(self.classes)))
        for k, spec in enumerate(self.classes):
            if spec.left_counterpart is None:
                continue
            if spec.left_counterpart not in self.class_names:
                raise InputError(
                    f"the model knows {spec.name} but not {spec.left_counterpart}, which it is in "
                    "a mirror",
                    mend="leave --tta out",
                )
            left = self.class_names.index(spec.left_counterpart)
            sides[k], sides[left] = left, k
        return tuple(sides)


@dataclass(frozen=True)
class Question:
    """Classes to ask a text-prompted network for, trained or not."""

    class_names: tuple[str, ...]
    embeddings: TextEmbeddings


def load_ensemble(
    paths: Sequence[Path], *, device: str, question: Question | None = None
) -> Ensemble:
    """Load checkpoints and check that they can be averaged.

    Args:
        paths: Each a run folder, a folder of runs with a ``final`` run, or a weight file.
        device: Where the networks go.
        question: Classes to ask for instead of the trained ones.

    Raises:
        InputError: When a checkpoint is missing, damaged, or unlike the first one, or cannot be
            asked the question.
    """
    if not paths:
        raise ValueError("an ensemble needs at least one model")
    resolved = [_run_of(path) for path in paths]
    loaded = [load_checkpoint(path, device=device) for path in resolved]
    for path, model in zip(resolved, loaded, strict=True):
        _require_segmentation(path, model)
    for path, model in zip(resolved[1:], loaded[1:], strict=True):
        _require_alike(path, model, first=loaded[0])
    if question is not None:
        loaded = [_asked(path, m, question) for path, m in zip(resolved, loaded, strict=True)]
    first = loaded[0]
    return Ensemble(
        members=tuple(Member(m.model, m.config.data.inference_window_hu) for m in loaded),
        classes=tuple(first.taxonomy.classes[name] for name in first.class_names),
        thresholds=torch.stack(
            [threshold_vector(m.presence_thresholds, m.class_names) for m in loaded]
        ).mean(dim=0),
        image_size=first.config.model.image_size,
        sha256=tuple(m.sha256 for m in loaded),
        text_sha256=None if question is None else question.embeddings.sha256,
        unions={c.name: c.members for c in first.taxonomy.classes.values() if c.members},
    )


def _asked(path: Path, loaded: LoadedModel, question: Question) -> LoadedModel:
    """Let a network answer for other classes, by their text."""
    model = loaded.config.model
    kind = model.universal.head if model.system == "universal" else model.class_prompt
    if kind != "text":
        raise InputError(
            f"was trained with {kind!r} class prompts and knows its own classes only",
            path=path,
            mend="leave --ask out, or train with model.class_prompt=text or "
            "model.universal.head=text",
        )
    asked, trained = question.embeddings.source, loaded.meta["text"]
    differing = [name for name in asked if asked[name] != trained[name]]
    if differing:
        name = differing[0]
        raise InputError(
            f"was trained on text embeddings of {name} {trained[name]}, the given ones have "
            f"{asked[name]}",
            path=path,
            mend="build them with the same tower, weights and template",
        )
    unknown = [name for name in question.class_names if name not in loaded.taxonomy.classes]
    if unknown:
        raise InputError(
            f"the taxonomy has no class {unknown[0]!r}", mend="choose from `samcancer classes`"
        )
    network: Any = loaded.model
    network.ask(
        question.class_names, torch.from_numpy(question.embeddings.select(question.class_names))
    )
    return dataclasses.replace(loaded, class_names=question.class_names)


def _run_of(path: Path) -> Path:
    """Return the run that a folder of runs stands for; any other path as it is."""
    if not path.exists():
        raise InputError(
            "no such model", path=path, mend="name a run folder or a .safetensors file"
        )
    if path.is_dir() and not (path / _BEST).exists():
        if (path / _FINAL / _BEST).exists():
            return path / _FINAL
        runs = sorted(p.parent.name for p in path.glob(f"*/{_BEST}"))
        if runs:
            raise InputError(
                f"holds no final model, only {', '.join(runs)}",
                path=path,
                mend="name one or several of these folders, or run train-final first",
            )
    return path


def _require_segmentation(path: Path, model: LoadedModel) -> None:
    if model.config.model.system == "region":
        raise InputError(
            "is a slice classifier; use it with --region",
            path=path,
            mend="give --model a run that segments, such as RUNS/final",
        )


def _require_alike(path: Path, model: LoadedModel, *, first: LoadedModel) -> None:
    pairs = {
        "classes": (tuple(model.class_names), tuple(first.class_names)),
        "image size": (model.config.model.image_size, first.config.model.image_size),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            raise InputError(
                f"has {what} {found}, the first model has {expected}",
                path=path,
                mend="average models of the same classes and image size only",
            )
