"""The decoder against segment_anything's own, and its shortcuts against the figure they shorten."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samcancer.modeling.class_table import ClassRows
from samcancer.modeling.mask_decoder import PromptedMaskDecoder


def decoder_of(build, *, classes: int) -> tuple[PromptedMaskDecoder, ClassRows]:
    model = build("small_sam", classes=classes).eval()
    return model.decoder, model.classes()


def test_positions_are_those_of_segment_anything(build, official) -> None:
    decoder, _ = decoder_of(build, classes=1)
    for size in ((3, 3), (4, 6)):
        theirs = official(decoder, 48)[0].pe_layer(size)
        torch.testing.assert_close(decoder.positions(size), theirs, rtol=1e-5, atol=1e-5)


def test_without_pixels_the_masks_are_those_of_segment_anything(build, official) -> None:
    decoder, rows = decoder_of(build, classes=3)
    prompt_encoder, mask_decoder = official(decoder, 48)
    image, prompts = torch.randn(2, 32, 3, 3), torch.randn(2, 3, 4, 32)
    for parameter in decoder.pixel_embedding.parameters():
        torch.nn.init.zeros_(parameter)
    rows = rows._replace(pixel_kernel=torch.zeros(3, 4), mask_bias=torch.zeros(3))
    sam = prompt_encoder.point_embeddings
    kinds = torch.cat([sam[kind].weight for kind in (1, 0, 2, 3)])
    dense = prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(3, -1, 3, 3)
    with torch.no_grad():
        expected = torch.stack(
            [
                mask_decoder(
                    image_embeddings=image[n : n + 1],
                    image_pe=prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=prompts[n] + kinds,
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                )[0][:, 0]
                for n in range(2)
            ]
        )
        masks = decoder(rows, image, prompts, torch.randn(2, 4, 48, 48))
    expected = F.interpolate(expected, size=(48, 48), mode="bilinear")
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)


def test_the_product_equals_the_figure_with_upscaled_image_and_pixel_embedding(build) -> None:
    decoder, rows = decoder_of(build, classes=3)
    image, prompts = torch.randn(2, 32, 3, 3), torch.randn(2, 3, 4, 32)
    pixels = torch.randn(2, 4, 48, 48)
    seen: dict[str, Tensor] = {}
    parts = {
        "image": decoder.mask_decoder.output_upscaling,
        "kernel": decoder.mask_decoder.output_hypernetworks_mlps[0],
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        masks = decoder(rows, image, prompts, pixels)
        embedding = decoder.pixel_embedding(pixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        upscaled = F.interpolate(seen["image"], size=(48, 48), mode="bilinear")
        summed = upscaled.view(2, 3, 4, 48, 48) + embedding[:, None]
        expected = (seen["kernel"].view(2, 3, 4, 1, 1) * summed).sum(2)
        expected = expected + torch.einsum("nchw,kc->nkhw", pixels, rows.pixel_kernel)
        expected = expected + rows.mask_bias.view(1, 3, 1, 1)
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)
