"""Which network a run trains, and how it is sized."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from samcancer.config.checks import require

System = Literal["samcancer", "universal", "region"]
"""The SAMCancer network [SC]; a volume network with a head of classes [UM], [LV], [TS]; or the
classifier that finds the slices worth looking at [TS]."""

Interaction = Literal["exchange", "ladder"]
"""Both ways between ViT and CNN as in [SC], or ViT to CNN only with the encoder untouched."""

ClassPrompt = Literal["indicator", "text", "both"]
"""What asks for a class: a learned indicator [SC], its text by a frozen tower [UM], or both."""

SLICE_CONTEXT = 2
"""Neighbouring slices that a target slice sees on either side, so a stack has five [SC]; a case's
end slices are replicated as often."""


@dataclass(frozen=True, kw_only=True)
class UniversalConfig:
    """The volume network, for ``model.system: universal`` ([UM] section 3)."""

    backbone: str = "unet"
    """Name in samcancer.modeling.backbones."""
    width: int = 32
    """Channels of the backbone at full resolution; for swin_unetr a multiple of 12."""
    head: str = "text"
    """Name in samcancer.modeling.heads: how classes are told apart; ``text`` needs
    ``model.text_embeddings``."""
    patch_size: tuple[int, int, int] = (96, 96, 96)
    """Voxels of a patch: slices, rows, columns; multiples of the backbone's strides."""
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5)
    """Voxel size that slices, rows and columns are resampled to."""
    overlap: float = 0.5
    """Share of a patch that the next one covers again at inference."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.width >= 4, "model.universal.width", self.width)
        require(min(self.patch_size) >= 8, "model.universal.patch_size", self.patch_size)
        require(min(self.spacing_mm) > 0, "model.universal.spacing_mm", self.spacing_mm)
        require(0 <= self.overlap < 1, "model.universal.overlap", self.overlap)


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """The slice classifier, for ``model.system: region`` ([TS] section 2)."""

    backbone: str = "resnet18"
    """Name of a timm network."""
    margin_mm: float = 15.0
    """Added at both ends of the range of slices that are segmented."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.margin_mm >= 0, "model.region.margin_mm", self.margin_mm)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (see samcancer.modeling)."""

    system: System = "samcancer"
    """Which of the papers' networks; the fields below are the first one's but for ``image_size``
    and ``text_embeddings``, which all share."""
    encoder: str = "vit_tiny"
    """Name in samcancer.modeling.encoders; the frozen ones need a checkpoint."""
    encoder_checkpoint: str | None = None
    """The encoder's official weights, by name in checkpoints/registry.yaml or by path; None starts
    from random weights."""
    interaction: Interaction = "exchange"
    image_size: int = 256
    """In-plane size S of stacks in pixels; a multiple of 16."""
    neighbours: bool = True
    """Whether the CNN branch sees neighbouring slices; False shows it the target slice five times,
    for comparison only."""
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
    universal: UniversalConfig = field(default_factory=UniversalConfig)
    region: RegionConfig = field(default_factory=RegionConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.system in get_args(System), "model.system", self.system)
        require(self.interaction in get_args(Interaction), "model.interaction", self.interaction)
        require(self.class_prompt in get_args(ClassPrompt), "model.class_prompt", self.class_prompt)
        require(
            self.system == "universal"
            or self.class_prompt != "indicator"
            or self.text_embeddings is None,
            "model.text_embeddings (only for the class prompts text and both and the head text)",
            self.text_embeddings,
        )
        require(
            self.image_size > 0 and self.image_size % 16 == 0,
            "model.image_size (a multiple of 16)",
            self.image_size,
        )
        require(self.cnn_width >= 4, "model.cnn_width", self.cnn_width)
