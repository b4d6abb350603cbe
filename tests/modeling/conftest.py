"""Small networks and the official-format weights that the modeling tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

from samcancer.config import ModelConfig
from samcancer.modeling import SamCancerNet, build_model
from samcancer.modeling.encoders import ENCODERS, DecoderShape, EncoderSpec, VitShape
from samcancer.modeling.encoders.sam_weights import fold_patches
from samcancer.modeling.mask_decoder import PromptedMaskDecoder

SMALL_SAM = "small_sam"
"""A frozen encoder with SAM's architecture and everything else of it small."""

SMALL_VIT = VitShape(dim=32, depth=4, heads=2, out_channels=32, window=3, global_blocks=(1, 3))

NetBuilder = Callable[..., SamCancerNet]

OfficialParts = Callable[[PromptedMaskDecoder, int], tuple[PromptEncoder, MaskDecoder]]


@pytest.fixture(autouse=True)
def _small_sam_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EncoderSpec(
        vit=SMALL_VIT,
        decoder=DecoderShape(depth=2, heads=4, mlp_dim=48, extra_mask_tokens=3),
        frozen=True,
        convert=fold_patches,
    )
    monkeypatch.setitem(ENCODERS, SMALL_SAM, spec)


@pytest.fixture
def build() -> NetBuilder:
    """Build a network of seeded weights; every zero-initialised layer is filled."""

    def make(
        encoder: str = "vit_tiny",
        *,
        classes: int = 2,
        size: int = 48,
        seed: int = 0,
        **config: object,
    ) -> SamCancerNet:
        torch.manual_seed(seed)
        settings = ModelConfig(encoder=encoder, image_size=size, cnn_width=4, **config)  # type: ignore[arg-type]
        model = build_model(settings, [f"class{i}" for i in range(classes)])
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    return make


@pytest.fixture
def sam_state() -> dict[str, Tensor]:
    """State dict with official names, for 8 x 8 tokens and padded windows of 3."""
    torch.manual_seed(1)
    parts = {
        "image_encoder": ImageEncoderViT(
            img_size=128,
            embed_dim=32,
            depth=4,
            num_heads=2,
            out_chans=32,
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1, 3),
        ),
        "prompt_encoder": PromptEncoder(32, (8, 8), (128, 128), 16),
        "mask_decoder": MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=48),
        ),
    }
    return {
        f"{name}.{key}": torch.randn_like(value)
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


@pytest.fixture
def official() -> OfficialParts:
    """segment_anything's prompt encoder and mask decoder with the weights of ours."""

    def make(decoder: PromptedMaskDecoder, size: int) -> tuple[PromptEncoder, MaskDecoder]:
        ours = decoder.mask_decoder.transformer
        block = ours.layers[0]
        prompt_encoder = PromptEncoder(ours.dim, (size // 16,) * 2, (size, size), 16)
        mask_decoder = MaskDecoder(
            transformer_dim=ours.dim,
            transformer=TwoWayTransformer(
                depth=len(ours.layers),
                embedding_dim=ours.dim,
                num_heads=block.self_attn.heads,
                mlp_dim=block.mlp.lin1.out_features,
            ),
            num_multimask_outputs=decoder.mask_decoder.mask_tokens.num_embeddings - 1,
        )
        prompt_encoder.load_state_dict(decoder.prompt_encoder.state_dict())
        mask_decoder.load_state_dict(decoder.mask_decoder.state_dict())
        return prompt_encoder.eval(), mask_decoder.eval()

    return make
