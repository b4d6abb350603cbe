"""Our prompt encoder and mask decoder against segment_anything's, weight by weight."""

from __future__ import annotations

import pytest
import segment_anything.modeling as official
import torch
from torch import nn

from samcancer.modeling.sam_modules import (
    Attention,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)

DIM, HEADS, MLP_DIM, EXTRA = 32, 4, 48, 3


def ours(depth: int) -> nn.ModuleList:
    torch.manual_seed(3)
    prompt_encoder = PromptEncoder(DIM)
    transformer = TwoWayTransformer(DIM, depth=depth, heads=HEADS, mlp_dim=MLP_DIM)
    return nn.ModuleList([prompt_encoder, MaskDecoder(transformer, extra_mask_tokens=EXTRA)])


def theirs(depth: int) -> nn.ModuleList:
    torch.manual_seed(3)
    prompt_encoder = official.PromptEncoder(DIM, (4, 4), (64, 64), 16)
    transformer = official.TwoWayTransformer(depth, DIM, HEADS, MLP_DIM)
    decoder = official.MaskDecoder(
        transformer_dim=DIM, transformer=transformer, num_multimask_outputs=EXTRA
    )
    return nn.ModuleList([prompt_encoder, decoder])


def test_a_seed_gives_the_weights_of_segment_anything_by_the_same_names() -> None:
    found, expected = ours(2).state_dict(), theirs(2).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_transformer_gives_what_segment_anythings_gives(depth: int) -> None:
    image, places = torch.randn(2, 2, DIM, 3, 5)
    tokens = torch.randn(2, 7, DIM)
    with torch.no_grad():
        found = ours(depth)[1].transformer(image, places, tokens)
        expected = theirs(depth)[1].transformer(image, places, tokens)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_other_parts_give_what_segment_anythings_give() -> None:
    (encoder, decoder), (their_encoder, their_decoder) = ours(1), theirs(1)
    tokens, image, mask = torch.randn(5, DIM), torch.randn(2, DIM, 3, 5), torch.randn(2, 1, 12, 20)
    pairs = [
        (decoder.output_upscaling(image), their_decoder.output_upscaling(image)),
        (encoder.mask_downscaling(mask), their_encoder.mask_downscaling(mask)),
        (decoder.iou_prediction_head(tokens), their_decoder.iou_prediction_head(tokens)),
        *(
            (one(tokens), other(tokens))
            for one, other in zip(
                decoder.output_hypernetworks_mlps,
                their_decoder.output_hypernetworks_mlps,
                strict=True,
            )
        ),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 16 channels"):
        Attention(32, 3, shrink=2)
