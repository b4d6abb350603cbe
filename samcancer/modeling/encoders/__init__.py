"""The image encoders by name, each with tokens in four stages and an image embedding.

The ``sam_*`` encoders (:mod:`samcancer.modeling.encoders.vit`) and ``medsam_lite``
(:mod:`samcancer.modeling.encoders.tiny_vit`) carry official weights and stay frozen; ``vit_tiny``
is small and trained from random weights with everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from samcancer.modeling.encoders.sam_weights import StateConverter, fold_patches
from samcancer.modeling.encoders.tiny_vit import TinyVit, official_to_ours
from samcancer.modeling.encoders.vit import ImageEncoder, VitShape

__all__ = [
    "ENCODERS",
    "DecoderShape",
    "Encoder",
    "EncoderPass",
    "EncoderSpec",
    "ImageEncoder",
    "StateConverter",
    "TinyVit",
    "VitShape",
]


class EncoderPass(Protocol):
    """The way of slices through an encoder, with a halt after each stage."""

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> tokens (B, h, w, D)."""

    def stage(self, index: int, tokens: Tensor) -> Tensor:
        """Run stage 0 to 3."""

    def embedding(self, tokens: Tensor) -> Tensor:
        """Tokens after the last stage -> image embedding (B, E, h, w)."""


class Encoder(EncoderPass, Protocol):
    """What the network asks of an image encoder."""

    stage_dims: tuple[int, ...]
    """Channels of the tokens after each of the four stages."""
    out_channels: int
    """Channels E of the image embedding."""
    embedding_stride: int
    """Pixels along the side of a place of the image embedding."""

    def working_bytes(self, image_size: int) -> int:
        """Return about how much memory an image takes at inference, beside the weights."""


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """The mask decoder that goes with an encoder; its dimension is the image embedding's."""

    depth: int
    heads: int
    mlp_dim: int
    extra_mask_tokens: int
    """Mask tokens beside the one that is used; SAM has three for ambiguous prompts."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder and what follows from choosing it."""

    vit: VitShape | None
    """Shape of a plain ViT; None is LiteMedSAM's TinyViT."""
    decoder: DecoderShape
    frozen: bool
    """Whether the encoder's weights never change in training."""
    convert: StateConverter | None
    """From the official state dict of the encoder to ours; None where there is none."""

    def build(self, image_size: int, *, padded_windows: bool = False) -> nn.Module:
        """Return an :class:`Encoder` with random weights for slices of ``image_size`` pixels."""
        if self.vit is None:
            return TinyVit()
        return ImageEncoder(self.vit, image_size, padded_windows=padded_windows)


_SAM_DECODER = DecoderShape(depth=2, heads=8, mlp_dim=2048, extra_mask_tokens=3)


def _sam(dim: int, depth: int, heads: int, global_blocks: tuple[int, ...]) -> EncoderSpec:
    vit = VitShape(dim=dim, depth=depth, heads=heads, out_channels=256, global_blocks=global_blocks)
    return EncoderSpec(vit=vit, decoder=_SAM_DECODER, frozen=True, convert=fold_patches)


ENCODERS: dict[str, EncoderSpec] = {
    "vit_tiny": EncoderSpec(
        vit=VitShape(dim=128, depth=8, heads=4, out_channels=128),
        decoder=DecoderShape(depth=2, heads=4, mlp_dim=256, extra_mask_tokens=0),
        frozen=False,
        convert=None,
    ),
    "medsam_lite": EncoderSpec(
        vit=None, decoder=_SAM_DECODER, frozen=True, convert=official_to_ours
    ),
    "sam_vit_b": _sam(768, 12, 12, (2, 5, 8, 11)),
    "sam_vit_l": _sam(1024, 24, 16, (5, 11, 17, 23)),
    "sam_vit_h": _sam(1280, 32, 16, (7, 15, 23, 31)),
}
"""Name -> encoder; the sam sizes are those of ``segment_anything.build_sam``."""
