"""Load one trained model, a fusion, or several of them as an ensemble, to segment whole scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samcancer.errors import InputError
from samcancer.inference.calibrated import mean_calibration, with_min_volume
from samcancer.inference.region import RegionModel
from samcancer.modeling.fusion import Predictor
from samcancer.modeling.slice_prediction import (
    MASK_THRESHOLD,
    Member,
    logit_thresholds,
    threshold_vector,
)
from samcancer.pretrained.text_embeddings import TextEmbeddings
from samcancer.taxonomy import ClassSpec
from samcancer.training.calibration_file import CALIBRATION_NAME, Calibration, read_calibration
from samcancer.training.checkpoint import LoadedModel, load_checkpoint
from samcancer.training.fusion_file import LoadedFusion, is_fusion, load_fusion

_FINAL = "final"
"""Folder, in the folder of all runs, of the model trained last."""

_BEST = "best.safetensors"
"""Weights of a run's best epoch."""


@dataclass(frozen=True)
class Ensemble:
    """Networks that share classes and image size; one network, or fusion, is an ensemble of one."""

    members: tuple[Predictor, ...]
    classes: tuple[ClassSpec, ...]
    """In the order of the networks' outputs; label k + 1 is class k."""
    thresholds: Tensor
    """(K,) presence thresholds, averaged over the members."""
    image_size: int
    sha256: tuple[str, ...]
    """Of each network's weights, or of all that a fusion consists of."""
    text_sha256: str | None = None
    """Of the text embeddings that the classes were asked for with; None for the trained ones."""
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Union class, such as both kidneys -> its members; the networks may predict only these."""
    organs: Mapping[str, ClassSpec] = field(default_factory=dict)
    """Name -> class of the organs that the classes' lesions lie in, predicted or not."""
    region: RegionModel | None = None
    """Finds the slices worth segmenting; None segments all."""
    probability_thresholds: tuple[float, ...] | None = None
    """(K,) above which a voxel belongs to a class; None is 0.5 for all."""
    calibrations: tuple[Calibration, ...] = ()
    """Of each model, where they were calibrated on healthy scans; thresholds and classes have their
    mean already."""

    @property
    def mask_thresholds(self) -> Tensor | None:
        """(K,) the probability thresholds as logits."""
        given = self.probability_thresholds
        return None if given is None else logit_thresholds(given)

    def calibration_report(self) -> dict[str, Any] | None:
        """Return what calibration on healthy scans changed, presence aside; None without any."""
        if self.probability_thresholds is None:
            return None
        return {
            "sha256": [calibration.sha256 for calibration in self.calibrations],
            "max_fp_scans": [calibration.max_fp_scans for calibration in self.calibrations],
            "classes": {
                spec.name: {
                    "probability_threshold": round(probability, 6),
                    "min_volume_ml": round(spec.postprocess.min_volume_ml, 6),
                }
                for spec, probability in zip(self.classes, self.probability_thresholds, strict=True)
            },
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(spec.name for spec in self.classes)

    def to_report(self) -> dict[str, Any]:
        """Return what the report of a scan says of the networks."""
        thresholds = zip(self.class_names, self.thresholds.tolist(), strict=True)
        return {
            "sha256": list(self.sha256),
            "text_sha256": self.text_sha256,
            "region_sha256": self.region and self.region.sha256,
            "presence_thresholds": {name: round(value, 6) for name, value in thresholds},
            "calibration": self.calibration_report(),
        }

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
    paths: Sequence[Path],
    *,
    device: str,
    question: Question | None = None,
    use_calibration: bool = True,
) -> Ensemble:
    """Load checkpoints and check that they can be averaged.

    Args:
        paths: Each a run folder, a folder of runs with a ``final`` run, a weight file, or the
            folder of a fusion.
        device: Where the networks go.
        question: Classes to ask for instead of the trained ones.
        use_calibration: Apply what ``samcancer calibrate`` stored beside the models.

    Raises:
        InputError: When a checkpoint is missing, damaged, or unlike the first one, or cannot be
            asked the question; when a calibration is damaged, or some models lack one.
    """
    if not paths:
        raise ValueError("an ensemble needs at least one model")
    resolved = [_run_of(path) for path in paths]
    loaded = [_load(path, device=device, question=question) for path in resolved]
    first = loaded[0]
    for path, model in zip(resolved[1:], loaded[1:], strict=True):
        _require_alike(path, model, first=first)
    ensemble = dataclasses.replace(
        first,
        members=tuple(member for m in loaded for member in m.members),
        thresholds=torch.stack([m.thresholds for m in loaded]).mean(dim=0),
        sha256=tuple(sha256 for m in loaded for sha256 in m.sha256),
    )
    return _calibrated(ensemble, resolved) if use_calibration else ensemble


def _calibrated(ensemble: Ensemble, paths: Sequence[Path]) -> Ensemble:
    """Return the ensemble with the mean of its models' calibrations, if they have any."""
    found = [_calibration_of(p, s) for p, s in zip(paths, ensemble.sha256, strict=True)]
    calibrations = tuple(c for c in found if c is not None)
    if not calibrations:
        return ensemble
    if len(calibrations) < len(found):
        raise InputError(
            "is not calibrated, and other models of the ensemble are",
            path=paths[found.index(None)],
            mend="calibrate it too, or pass --no-calibration",
        )
    mean = mean_calibration(calibrations)
    probability, presence = [MASK_THRESHOLD] * len(ensemble.classes), ensemble.thresholds.clone()
    classes = list(ensemble.classes)
    for k, name in enumerate(ensemble.class_names):
        if name in mean:
            probability[k], presence[k] = mean[name].probability, mean[name].presence
            classes[k] = with_min_volume(classes[k], mean[name].min_volume_ml)
    return dataclasses.replace(
        ensemble,
        classes=tuple(classes),
        thresholds=presence,
        probability_thresholds=tuple(probability),
        calibrations=calibrations,
    )


def _calibration_of(path: Path, sha256: str) -> Calibration | None:
    """Return what lies beside a model."""
    folder = path if path.is_dir() else path.parent
    if is_fusion(path) and (folder / CALIBRATION_NAME).exists():
        raise InputError(
            "lies in a fusion, which cannot be calibrated",
            path=folder / CALIBRATION_NAME,
            mend="delete it, or pass --no-calibration",
        )
    return read_calibration(folder, model_sha256=sha256)


def _load(path: Path, *, device: str, question: Question | None) -> Ensemble:
    """Load what one path stands for."""
    if is_fusion(path):
        if question is not None:
            raise InputError(
                "is a fusion and knows its own classes only", path=path, mend="leave --ask out"
            )
        fusion = load_fusion(path, device=device)
        return _ensemble_of(fusion.net, fusion, fusion.net.class_names, fusion.image_size)
    model = load_checkpoint(path, device=device)
    _require_segmentation(path, model)
    if question is not None:
        model = _asked(path, model, question)
    member = Member(model.model, model.config.data.inference_window_hu)
    ensemble = _ensemble_of(member, model, model.class_names, model.config.model.image_size)
    text = None if question is None else question.embeddings.sha256
    return dataclasses.replace(ensemble, text_sha256=text)


def _ensemble_of(
    member: Predictor,
    loaded: LoadedModel | LoadedFusion,
    class_names: Sequence[str],
    image_size: int,
) -> Ensemble:
    known = loaded.taxonomy.classes
    unknown = [name for name in class_names if name not in known]
    if unknown:  # files are named after classes, so no other name may come from a checkpoint
        raise InputError(
            f"the model's taxonomy has no class {unknown[0]!r}", mend="train the model again"
        )
    classes = tuple(known[name] for name in class_names)
    return Ensemble(
        members=(member,),
        classes=classes,
        thresholds=threshold_vector(loaded.presence_thresholds, class_names),
        image_size=image_size,
        sha256=(loaded.sha256,),
        unions={c.name: c.members for c in known.values() if c.members},
        organs={c.organ: known[c.organ] for c in classes if c.organ is not None},
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
    if path.is_dir() and not (path / _BEST).exists() and not is_fusion(path):
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


def _require_alike(path: Path, model: Ensemble, *, first: Ensemble) -> None:
    pairs = {
        "classes": (model.class_names, first.class_names),
        "image size": (model.image_size, first.image_size),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            raise InputError(
                f"has {what} {found}, the first model has {expected}",
                path=path,
                mend="average models of the same classes and image size only",
            )
