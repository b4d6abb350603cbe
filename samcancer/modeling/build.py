"""Build the network that a configuration describes, of whichever system.

Here alone the parts are made and sized; each of them is given what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from samcancer.config import ModelConfig, UniversalConfig
from samcancer.errors import InputError
from samcancer.modeling.backbones import build_backbone
from samcancer.modeling.class_prompts import ClassPrompts
from samcancer.modeling.class_table import ClassTable, TextVectors
from samcancer.modeling.cnn_branch import CnnBranch
from samcancer.modeling.encoders import ENCODERS, DecoderShape, Encoder, EncoderSpec
from samcancer.modeling.encoders.sam_weights import (
    ENCODER_PREFIX,
    MASK_DECODER_PREFIX,
    PROMPT_ENCODER_PREFIX,
    load_sam_weights,
)
from samcancer.modeling.exchange import Exchange
from samcancer.modeling.heads import head_spec
from samcancer.modeling.heads.shape import HeadShape
from samcancer.modeling.mask_decoder import PromptedMaskDecoder
from samcancer.modeling.region_net import RegionNet
from samcancer.modeling.sam_modules import MaskDecoder, PromptEncoder, TwoWayTransformer
from samcancer.modeling.samcancer_net import PROMPT_STAGES, SamCancerNet
from samcancer.modeling.universal_net import UniversalNet


def build_system(
    config: ModelConfig,
    class_names: Sequence[str],
    *,
    encoder_state: Mapping[str, Tensor] | None = None,
    text: TextVectors | None = None,
) -> nn.Module:
    """Build the network of the configured system; see :func:`build_model` for the arguments."""
    if config.system == "universal":
        return build_universal(config.universal, class_names, text=text)
    if config.system == "region":
        region = RegionNet(class_names, backbone=config.region.backbone)
        return region.to(memory_format=torch.channels_last)
    return build_model(config, class_names, encoder_state=encoder_state, text=text)


def needs_text(config: ModelConfig) -> bool:
    """Whether the network tells classes apart by their text embeddings."""
    if config.system == "universal":
        return head_spec(config.universal.head).needs_text
    return config.system == "samcancer" and config.class_prompt != "indicator"


def build_universal(
    config: UniversalConfig, class_names: Sequence[str], *, text: TextVectors | None = None
) -> UniversalNet:
    """Build a volume network.

    Raises:
        InputError: When backbone or head is unknown, or the backbone does not take the patch.
    """
    backbone = build_backbone(config.backbone, config.width)
    stride: int = backbone.stride
    if any(side % stride for side in config.patch_size) or max(config.patch_size) == stride:
        raise InputError(
            f"model.universal.patch_size {config.patch_size} does not fit {config.backbone}",
            mend=f"use multiples of {stride}, at least one of them larger",
        )
    shape = HeadShape(len(class_names), backbone.deep_channels, backbone.channels)
    head = head_spec(config.head).build(shape, text)
    return UniversalNet(class_names, config, backbone=backbone, head=head)


def build_model(
    config: ModelConfig,
    class_names: Sequence[str],
    *,
    encoder_state: Mapping[str, Tensor] | None = None,
    text: TextVectors | None = None,
) -> SamCancerNet:
    """Build the SAMCancer network for the classes.

    Args:
        config: Its ``encoder_checkpoint`` is not read here: ``encoder_state`` is its content.
        class_names: One mask and one presence each, in this order.
        encoder_state: Official SAM state dict for encoder, prompt encoder and mask decoder; None
            starts all of them from random weights.
        text: Of the classes, for the class prompts that need it; a checkpoint's are loaded over it.

    Raises:
        InputError: When the encoder is unknown, takes no SAM weights, or the weights do not fit.
    """
    spec = _encoder_spec(config.encoder)
    encoder: Any = spec.build(config.image_size, padded_windows=config.padded_windows)
    embedding = encoder.out_channels
    cnn = CnnBranch(config.cnn_width)
    decoder = _build_decoder(encoder, spec.decoder, config)
    if encoder_state is not None:
        _load_sam(config.encoder, encoder, decoder, encoder_state)
    encoder.requires_grad_(not spec.frozen)
    both_ways = config.interaction == "exchange"
    model = SamCancerNet(
        class_names,
        config.image_size,
        encoder=encoder,
        cnn=cnn,
        exchanges=[
            Exchange(dim, channels, both_ways=both_ways)
            for dim, channels in zip(encoder.stage_dims, cnn.channels[1:], strict=True)
        ],
        classes=ClassTable(
            len(class_names),
            embedding,
            pixel_width=config.cnn_width,
            kind=config.class_prompt,
            text=text,
        ),
        prompts=ClassPrompts(
            embedding,
            level_channels=[embedding, *cnn.channels[-2 : -2 - PROMPT_STAGES : -1]],
        ),
        decoder=decoder,
        neighbours=config.neighbours,
    )
    return model.to(memory_format=torch.channels_last)


def _build_decoder(
    encoder: Encoder, shape: DecoderShape, config: ModelConfig
) -> PromptedMaskDecoder:
    dim = encoder.out_channels
    prompt_encoder = PromptEncoder(dim)
    transformer = TwoWayTransformer(
        dim, depth=shape.depth, heads=shape.heads, mlp_dim=shape.mlp_dim
    )
    mask_decoder = MaskDecoder(transformer, extra_mask_tokens=shape.extra_mask_tokens)
    for part in (prompt_encoder, mask_decoder):
        part.requires_grad_(config.train_decoder)
    # not in every step's gradient; what reads the embedded masks is trained
    frozen = (
        prompt_encoder.not_a_point_embed,
        prompt_encoder.mask_downscaling,
        mask_decoder.iou_prediction_head,
        mask_decoder.output_hypernetworks_mlps[1:],
    )
    for module in frozen:
        module.requires_grad_(False)
    return PromptedMaskDecoder(prompt_encoder, mask_decoder, pixel_width=config.cnn_width)


def _encoder_spec(name: str) -> EncoderSpec:
    if name not in ENCODERS:
        raise InputError(f"unknown encoder {name!r}", mend=f"choose from {', '.join(ENCODERS)}")
    return ENCODERS[name]


def _load_sam(
    name: str,
    encoder: nn.Module,
    decoder: PromptedMaskDecoder,
    state: Mapping[str, Tensor],
) -> None:
    convert = ENCODERS[name].convert
    if convert is None:
        raise InputError(
            f"encoder {name!r} takes no published weights",
            mend="leave encoder_checkpoint out, or choose a sam_* encoder or medsam_lite",
        )
    parts = {
        ENCODER_PREFIX: encoder,
        PROMPT_ENCODER_PREFIX: decoder.prompt_encoder,
        MASK_DECODER_PREFIX: decoder.mask_decoder,
    }
    load_sam_weights(parts, state, convert=convert)
