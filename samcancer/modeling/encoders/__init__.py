"""The image encoders by name: one ViT class, several sizes.

Each gives tokens in four stages and an image embedding; see :mod:`samcancer.modeling.encoders.vit`.
The ``sam_*`` encoders carry SAM's official weights and stay frozen; ``vit_tiny`` is small and
trained from random weights with everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from samcancer.modeling.encoders.vit import ImageEncoder, VitShape

__all__ = ["ENCODERS", "DecoderShape", "EncoderSpec", "ImageEncoder", "VitShape"]


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

    vit: VitShape
    decoder: DecoderShape
    frozen: bool
    """Whether the encoder's weights never change in training."""
    takes_sam_weights: bool
    """Whether official SAM state dicts fit it."""


_SAM_DECODER = DecoderShape(depth=2, heads=8, mlp_dim=2048, extra_mask_tokens=3)


def _sam(dim: int, depth: int, heads: int, global_blocks: tuple[int, ...]) -> EncoderSpec:
    vit = VitShape(dim=dim, depth=depth, heads=heads, out_channels=256, global_blocks=global_blocks)
    return EncoderSpec(vit=vit, decoder=_SAM_DECODER, frozen=True, takes_sam_weights=True)


ENCODERS: dict[str, EncoderSpec] = {
    "vit_tiny": EncoderSpec(
        vit=VitShape(dim=128, depth=8, heads=4, out_channels=128),
        decoder=DecoderShape(depth=2, heads=4, mlp_dim=256, extra_mask_tokens=0),
        frozen=False,
        takes_sam_weights=False,
    ),
    "sam_vit_b": _sam(768, 12, 12, (2, 5, 8, 11)),
    "sam_vit_l": _sam(1024, 24, 16, (5, 11, 17, 23)),
    "sam_vit_h": _sam(1280, 32, 16, (7, 15, 23, 31)),
}
"""Name -> encoder; the sam sizes are those of ``segment_anything.build_sam``."""
