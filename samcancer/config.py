"""The configuration of a run: dataclasses whose defaults are the recipe of [SC] (section 3).

A run's configuration is a YAML file with the sections below, every field optional; unknown
sections or fields are refused. The configuration is stored in every checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml

from samcancer.errors import InputError

Interaction = Literal["exchange", "ladder"]
"""Both ways between ViT and CNN as in [SC], or ViT to CNN only with the encoder untouched."""

UnknownLabels = Literal["masked", "background"]
"""What a class that a case does not annotate counts as; ``background`` is for comparison only."""

WindowHu = tuple[float, float]
"""Lower and upper end, in HU, of the range mapped to [0, 1]."""

ClassPrompt = Literal["indicator", "text", "both"]
"""What asks for a class: a learned indicator [SC], its text by a frozen tower [UM], or both."""

FeatureDtype = Literal["float32", "float16"]
"""How cached encoder features are kept: as computed, or in half the space and rounded."""

SLICE_CONTEXT = 2
"""Neighbouring slices that a target slice sees on either side, so a stack has five [SC]; a case's
end slices are replicated as often."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (see samcancer.modeling)."""

    encoder: str = "vit_tiny"
    """Name in samcancer.modeling.encoders; the frozen ones need a checkpoint."""
    encoder_checkpoint: str | None = None
    """The encoder's official weights, by name in checkpoints/registry.yaml or by path; None starts
    from random weights."""
    interaction: Interaction = "exchange"
    image_size: int = 256
    """In-plane size S of stacks in pixels; a multiple of 16."""
    cnn_width: int = 48
    """Channels of the CNN branch at full resolution; the stages have 1, 2, 4, 8 and 16 times it."""
    class_prompt: ClassPrompt = "indicator"
    text_embeddings: str | None = None
    """File of `samcancer build-text-embeddings`, for the class prompts ``text`` and ``both``."""
    padded_windows: bool = False
    """Whether a small SAM encoder keeps its windows of 14 tokens, padded, as SAM would; otherwise a
    grid under 28 x 28 tokens is one window. Costs half as much again at 256 px."""
    train_decoder: bool = True
    """Whether the SAM mask decoder and prompt encoder are trained or stay frozen."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(self.interaction in get_args(Interaction), "model.interaction", self.interaction)
        _require(
            self.class_prompt in get_args(ClassPrompt), "model.class_prompt", self.class_prompt
        )
        _require(
            (self.class_prompt == "indicator") == (self.text_embeddings is None),
            "model.text_embeddings (given for the class prompts text and both, and only for them)",
            self.text_embeddings,
        )
        _require(
            self.image_size > 0 and self.image_size % 16 == 0,
            "model.image_size (a multiple of 16)",
            self.image_size,
        )
        _require(self.cnn_width >= 4, "model.cnn_width", self.cnn_width)


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of training stacks: contrast, gamma, rotation, scaling ([SC] section 3)."""

    probability: float = 0.5
    """Chance of each change, drawn apart."""
    contrast: float = 0.25
    """Largest relative change of contrast and brightness."""
    gamma: float = 0.3
    """Gamma is drawn from [1 - gamma, 1 + gamma]."""
    rotation_degrees: float = 15.0
    scaling: float = 0.2
    """Zoom is drawn from [1 - scaling, 1 + scaling]."""
    flip: bool = False
    """Mirror left and right; off by default since organs have sides."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(0 <= self.probability <= 1, "augmentation.probability", self.probability)
        _require(0 <= self.contrast < 1, "augmentation.contrast", self.contrast)
        _require(0 <= self.gamma < 1, "augmentation.gamma", self.gamma)
        _require(0 <= self.scaling < 1, "augmentation.scaling", self.scaling)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a training sample is."""

    train_windows_hu: tuple[WindowHu, ...] = ((-200.0, 300.0), (-1300.0, 300.0))
    """Windows drawn from at random in training: tissue and lung [SC]."""
    inference_window_hu: WindowHu = (-200.0, 300.0)
    lesion_fraction: float = 0.5
    """Share of samples whose target slice holds a labelled voxel, classes drawn evenly."""
    slices_per_sample: int = 1
    """Target slices T that share one chunk of T + 4 slices."""
    workers: int = 1
    """Loader processes; 0 loads in the training process."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(len(self.train_windows_hu) > 0, "data.train_windows_hu", self.train_windows_hu)
        for lower, upper in (*self.train_windows_hu, self.inference_window_hu):
            _require(lower < upper, "data window", (lower, upper))
        _require(0 <= self.lesion_fraction <= 1, "data.lesion_fraction", self.lesion_fraction)
        _require(self.slices_per_sample >= 1, "data.slices_per_sample", self.slices_per_sample)
        _require(self.workers >= 0, "data.workers", self.workers)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation ([SC] section 3: Adam 5e-4, batch 16, 80 epochs, Dice + cross-entropy)."""

    epochs: int = 80
    samples_per_epoch: int | None = None
    """Samples drawn per epoch; None draws as many as the training slices."""
    batch_size: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    warmup_fraction: float = 0.02
    """Share of the run over which the learning rate rises linearly from 0."""
    decay_power: float = 0.9
    """Exponent of the polynomial decay of the learning rate to 0 at the end of the run."""
    dice_weight: float = 1.0
    bce_weight: float = 1.0
    presence_weight: float = 0.2
    coarse_weight: float = 1.0
    """Of the coarse masks that the presence is read off."""
    lesion_weight: float = 10.0
    """Weight of a class's own voxels in the cross-entropy, against 1 for background."""
    false_presence: float = 0.3
    """Share of true absences that the prompts are told as presence in training."""
    manual_prompts: float = 0.2
    """Share of the slices and classes with a lesion that are given points, boxes or a rough mask in
    training, drawn from the reference, so that one checkpoint takes prompts and needs none."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    unknown_labels: UnknownLabels = "masked"
    validate_every: int | None = 5
    """Epochs between whole-volume validations; the last epoch is always validated. None never
    validates: the last epoch is the best one, and presence thresholds are 0.5."""
    time_budget_s: float | None = None
    """Wall-clock seconds, from the first batch on and with everything but the last validation
    counted, after which the run ends; None means no limit."""
    final_held_out_fold: int | None = 0
    """Fold kept out of the final training to select its best epoch; None trains on all patients
    and keeps the last epoch."""
    seed: int = 0
    precision: str = "32-true"
    """Lightning Fabric's name of the precision; use bf16-mixed on GPUs only."""
    feature_cache: str | None = None
    """Folder of `samcancer cache-features` with what the frozen encoder says of every slice, read
    instead of computed; for ``ladder`` without augmentation. None computes it anew each time."""
    feature_dtype: FeatureDtype = "float32"
    """Of the cached features; float16 halves the folder and rounds them."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size", "learning_rate", "gradient_clip"):
            _require(getattr(self, name) > 0, f"train.{name}", getattr(self, name))
        for name in ("samples_per_epoch", "time_budget_s", "validate_every"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"train.{name}", value)
        _require(0 <= self.warmup_fraction < 1, "train.warmup_fraction", self.warmup_fraction)
        for name in (
            "weight_decay",
            "decay_power",
            "dice_weight",
            "bce_weight",
            "presence_weight",
            "coarse_weight",
            "lesion_weight",
            "seed",
        ):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name))
        for name in ("false_presence", "manual_prompts"):
            _require(0 <= getattr(self, name) <= 1, f"train.{name}", getattr(self, name))
        for name, kind in (("unknown_labels", UnknownLabels), ("feature_dtype", FeatureDtype)):
            value = getattr(self, name)
            _require(value in get_args(kind), f"train.{name}", value)


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """Which voxels of an unknown class a teacher's probability decides (step 2 of [SC])."""

    lesion_above: float = 0.5
    """Probability from which a voxel becomes lesion."""
    ignore_above: float = 0.2
    """Probabilities from here up to ``lesion_above`` stay unknown; under it is background."""
    min_teacher_dice: float = 0.1
    """A class stays unknown where its teacher's held-out Dice is lower; 0 trusts every teacher."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(
            0 <= self.min_teacher_dice <= 1,
            "pseudo_labels.min_teacher_dice",
            self.min_teacher_dice,
        )
        _require(
            0 <= self.ignore_above <= self.lesion_above <= 1,
            "pseudo_labels.ignore_above",
            self.ignore_above,
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run, apart from its data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    folds: int = 5
    """Parts of the cross-validation, by patient."""

    def __post_init__(self) -> None:
        """Check the ranges, and fields that belong together."""
        _require(self.folds >= 2, "folds", self.folds)
        held_out = self.train.final_held_out_fold
        _require(
            held_out is None or 0 <= held_out < self.folds, "train.final_held_out_fold", held_out
        )


def load_config(path: Path | None) -> Config:
    """Read a YAML configuration; None gives the defaults.

    Raises:
        InputError: When the file is missing, is not YAML, or names an unknown or bad field.
    """
    if path is None:
        return Config()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="see configs/ for examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"not valid YAML ({error})", path=path, mend="see configs/ for examples"
        ) from None
    try:
        return config_from_dict(content or {})
    except (TypeError, ValueError) as error:
        raise InputError(str(error), path=path, mend="see docs/configuration.md") from None


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as plain dicts, lists and scalars (JSON and YAML safe)."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def config_from_dict(content: dict[str, Any]) -> Config:
    """Build a configuration from :func:`config_to_dict`'s form; missing fields take defaults.

    Raises:
        ValueError: When a section or field is unknown, or a value is out of range.
    """
    return _build(Config, content, "")


def with_overrides(config: Config, assignments: Sequence[str]) -> Config:
    """Return the configuration with ``section.field=value`` assignments applied, in order.

    Values are YAML: ``train.epochs=3``, ``train.time_budget_s=null``,
    ``data.train_windows_hu=[[-200, 300]]``.

    Raises:
        InputError: When an assignment is malformed, names an unknown field, or is out of range.
    """
    content = config_to_dict(config)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        *sections, last = name.strip().split(".")
        target: Any = content
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not equals or not isinstance(target, dict) or last not in target:
            raise InputError(
                f"--set takes section.field=value with a known field, got {assignment!r}",
                mend="see docs/configuration.md",
            )
        try:
            target[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {name}: not a YAML value ({error})") from None
    try:
        return config_from_dict(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"--set: {error}", mend="see docs/configuration.md") from None


def _build(kind: type[_T], content: Any, where: str) -> _T:
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the configuration'} must be a mapping, got {content!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise ValueError(
            f"unknown field {where}{unknown[0]}; allowed are {', '.join(sorted(hints))}"
        )
    values = {
        name: _build(hints[name], value, f"{where}{name}.")
        if dataclasses.is_dataclass(hints[name])
        else _checked(hints[name], _tuples(value), f"{where}{name}")
        for name, value in content.items()
    }
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return the value when it is of the annotated type, whole numbers as float where asked for."""
    if _fits(hint, value):
        return _as_annotated(hint, value)
    if isinstance(value, str) and _fits(hint, 0.5):  # YAML reads 5e-4 as text
        with contextlib.suppress(ValueError):
            return float(value)
    expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise ValueError(f"{where} must be {expected}, got {value!r}")


def _as_annotated(hint: Any, value: Any) -> Any:
    """Turn whole numbers into floats where the annotation says float, inside tuples too."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(map(_as_annotated, kinds, value))
    if get_origin(hint) is not Literal and arguments:
        return _as_annotated(next(kind for kind in arguments if _fits(kind, value)), value)
    return float(value) if hint is float else value


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(arguments[0], item) for item in value)
        return len(value) == len(arguments) and all(map(_fits, arguments, value))
    if arguments:
        return any(_fits(option, value) for option in arguments)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _require(condition: bool, name: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} is out of range: {value!r}")
