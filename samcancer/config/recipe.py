"""The configuration of a run: dataclasses whose defaults are the recipe of [SC] (section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from samcancer.config.checks import require
from samcancer.config.model import ModelConfig

UnknownLabels = Literal["masked", "background"]
"""What a class that a case does not annotate counts as; ``background`` is for comparison only."""

WindowHu = tuple[float, float]
"""Lower and upper end, in HU, of the range mapped to [0, 1]."""

FeatureDtype = Literal["float32", "float16"]
"""How cached encoder features are kept: as computed, or in half the space and rounded."""

Optimizer = Literal["adam", "adamw", "sgd", "novograd"]
"""[SC] trains with Adam, [UM] with AdamW, [LV] with SGD, [UM23] with NovoGrad."""

Decay = Literal["polynomial", "cosine"]
"""How the learning rate falls to 0 over the run."""


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
        require(0 <= self.probability <= 1, "augmentation.probability", self.probability)
        require(0 <= self.contrast < 1, "augmentation.contrast", self.contrast)
        require(0 <= self.gamma < 1, "augmentation.gamma", self.gamma)
        require(0 <= self.scaling < 1, "augmentation.scaling", self.scaling)


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
    max_per_category: int | None = None
    """Most training cases of each class, drawn evenly from its data sets ([LV]); None takes all."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(len(self.train_windows_hu) > 0, "data.train_windows_hu", self.train_windows_hu)
        for lower, upper in (*self.train_windows_hu, self.inference_window_hu):
            require(lower < upper, "data window", (lower, upper))
        require(0 <= self.lesion_fraction <= 1, "data.lesion_fraction", self.lesion_fraction)
        require(self.slices_per_sample >= 1, "data.slices_per_sample", self.slices_per_sample)
        require(self.workers >= 0, "data.workers", self.workers)
        most = self.max_per_category
        require(most is None or most >= 1, "data.max_per_category", most)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation ([SC] section 3: Adam 5e-4, batch 16, 80 epochs, Dice + cross-entropy)."""

    epochs: int = 80
    samples_per_epoch: int | None = None
    """Samples drawn per epoch; None draws as many as the training slices."""
    batch_size: int = 16
    optimizer: Optimizer = "adam"
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    warmup_fraction: float = 0.02
    """Share of the run over which the learning rate rises linearly from 0."""
    momentum: float = 0.9
    """Of ``sgd``, with Nesterov's correction."""
    decay: Decay = "polynomial"
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
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name))
        for name in ("samples_per_epoch", "time_budget_s", "validate_every"):
            value = getattr(self, name)
            require(value is None or value > 0, f"train.{name}", value)
        require(0 <= self.warmup_fraction < 1, "train.warmup_fraction", self.warmup_fraction)
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
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name))
        require(0 <= self.momentum < 1, "train.momentum", self.momentum)
        for name in ("false_presence", "manual_prompts"):
            require(0 <= getattr(self, name) <= 1, f"train.{name}", getattr(self, name))
        for name, kind in (
            ("unknown_labels", UnknownLabels),
            ("feature_dtype", FeatureDtype),
            ("optimizer", Optimizer),
            ("decay", Decay),
        ):
            value = getattr(self, name)
            require(value in get_args(kind), f"train.{name}", value)


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
        require(
            0 <= self.min_teacher_dice <= 1,
            "pseudo_labels.min_teacher_dice",
            self.min_teacher_dice,
        )
        require(
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
        require(self.folds >= 2, "folds", self.folds)
        held_out = self.train.final_held_out_fold
        require(
            held_out is None or 0 <= held_out < self.folds, "train.final_held_out_fold", held_out
        )
