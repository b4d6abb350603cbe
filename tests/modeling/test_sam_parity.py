"""Invariant 4: an official state dict gives at 1024 px what segment_anything itself gives.

The state dict is random and in the official format, since SAM's own does not download everywhere;
width and heads are ViT-B's. Four of its twelve blocks run, two windowed and two global; the slow
test runs all of them.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn

from samcancer.config import ModelConfig
from samcancer.modeling import build_model
from samcancer.modeling.encoders import ENCODERS, DecoderShape, EncoderSpec, VitShape
from samcancer.modeling.encoders.sam_weights import fold_patches
from samcancer.modeling.sam_modules import MaskDecoder as OurMaskDecoder

SIZE = 1024
GRID = SIZE // 16


def official_sam(depth: int, global_blocks: tuple[int, ...]) -> Sam:
    """Build ``segment_anything.build_sam_vit_b`` with that many blocks and random weights."""
    torch.manual_seed(0)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIZE,
            depth=depth,
            embed_dim=768,
            num_heads=12,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=global_blocks,
            window_size=14,
            out_chans=256,
        ),
        prompt_encoder=PromptEncoder(256, (GRID, GRID), (SIZE, SIZE), 16),
        mask_decoder=MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048),
        ),
    ).eval()
    for parameter in sam.image_encoder.parameters():
        if not parameter.any():  # position tables start at zero
            nn.init.normal_(parameter, std=0.02)
    return sam


def compare(sam: Sam, encoder: str) -> None:
    config = ModelConfig(encoder=encoder, image_size=SIZE, cnn_width=4)
    ours = build_model(config, ["a"], encoder_state=sam.state_dict()).eval()
    grey = torch.rand(1, 1, SIZE, SIZE)
    with torch.inference_mode():
        theirs = sam.image_encoder(sam.preprocess(255 * grey.expand(1, 3, -1, -1)))
        image = ours.encoder(grey)
        close(image, theirs)

        box = torch.tensor([[[100.0, 200.0, 400.0, 300.0]]])
        points = (torch.tensor([[[250.0, 260.0]]]), torch.tensor([[1]]))
        decoder = ours.decoder
        places = decoder.positions((GRID, GRID))[None]
        for prompts in ((points, None), (None, box), (points, box)):
            sparse, dense = sam.prompt_encoder(points=prompts[0], boxes=prompts[1], masks=None)
            expected, _ = sam.mask_decoder(
                theirs, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
            )
            close(mask_of(decoder.mask_decoder, image + dense, places, sparse), expected)


def mask_of(decoder: OurMaskDecoder, image: Tensor, places: Tensor, sparse: Tensor) -> Tensor:
    """What SAM makes of its first mask token, from our parts."""
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens, found = decoder.transformer(image, places, torch.cat([output_tokens[None], sparse], 1))
    upscaled = decoder.output_upscaling(found.transpose(1, 2).view(image.shape))
    kernel = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    return torch.einsum("bchw,bc->bhw", upscaled, kernel)[:, None]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.std()))


def test_four_blocks_at_1024_px(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = VitShape(dim=768, depth=4, heads=12, out_channels=256, global_blocks=(1, 3))
    shape = DecoderShape(depth=2, heads=8, mlp_dim=2048, extra_mask_tokens=3)
    spec = EncoderSpec(vit=vit, decoder=shape, frozen=True, convert=fold_patches)
    monkeypatch.setitem(ENCODERS, "sam_four_blocks", spec)
    compare(official_sam(4, (1, 3)), "sam_four_blocks")


@pytest.mark.slow
def test_all_of_vit_b_at_1024_px() -> None:
    compare(official_sam(12, (2, 5, 8, 11)), "sam_vit_b")
