"""SAM's mask decoder with all classes at once and the CNN's fine detail.

    image embedding (N, E, h, w), prompts (N, K, 4, E), pixels (N, w, S, S) with S = 16 h
    two-way transformer, per class     -> mask token (N, K, E), image (N*K, E, h, w)
    upscaling x 4                      -> (N*K, E/8, 4h, 4w)
    hypernetwork(mask token)           -> (N, K, E/8)
    mask = hypernetwork . (upscaled image interpolated to S + pixel embedding (E/8, S, S))
           + class kernel (K, w) . pixels
                                       -> (N, K, S, S)

The class kernel is a U-Net's last layer: the CNN learns from it at once, before the transformer's
tokens mean anything; without it the first masks are little more than where a class usually lies.
Kirillov et al. 2023, appendix A; the modules are segment_anything's own. The product is linear in
both of its terms, so it is taken before interpolation (one channel a class instead of E/8) and
before the 1x1 convolution that makes the pixel embedding: the same masks for less work.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.layers import PRIOR_LOGIT


class PromptedMaskDecoder(nn.Module):
    """One mask per class from SAM's prompt encoder and mask decoder."""

    def __init__(
        self, prompt_encoder: Any, mask_decoder: Any, *, classes: int, pixel_width: int
    ) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.pixel_embedding = nn.Linear(pixel_width, mask_decoder.transformer_dim // 8)
        spread = 1 / (2 * math.sqrt(pixel_width))
        self.class_kernels = nn.Parameter(spread * torch.randn(classes, pixel_width))
        self.mask_bias = nn.Parameter(torch.full((classes,), PRIOR_LOGIT))

    def positions(self, size: tuple[int, int]) -> Tensor:
        """SAM's position encoding of a grid, (E, h, w), in the precision of the weights."""
        matrix: Tensor = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        y, x = (
            (torch.arange(side, device=matrix.device, dtype=matrix.dtype) + 0.5) / side
            for side in size
        )
        to_x, to_y = matrix[:, None, None]
        angles = 2 * math.pi * ((2 * x - 1)[:, None] * to_x + (2 * y - 1)[:, None, None] * to_y)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)

    def forward(self, image: Tensor, prompts: Tensor, pixels: Tensor) -> Tensor:
        """(N, E, h, w), (N, K, 4, E), (N, w, S, S) -> mask logits (N, K, S, S)."""
        batch, classes = prompts.shape[:2]
        tokens, images = self._transform(image, prompts)
        upscaled = self.mask_decoder.output_upscaling(images)
        kernel = self.mask_decoder.output_hypernetworks_mlps[0](tokens)
        coarse = torch.einsum("kchw,kc->khw", upscaled, kernel)
        coarse = coarse.view(batch, classes, *coarse.shape[1:])
        kernel = kernel.view(batch, classes, -1)
        kernels = kernel @ self.pixel_embedding.weight + self.class_kernels
        fine = torch.einsum("nchw,nkc->nkhw", pixels, kernels)
        bias = kernel @ self.pixel_embedding.bias + self.mask_bias
        coarse = F.interpolate(coarse, size=pixels.shape[-2:], mode="bilinear")
        masks: Tensor = fine + coarse + bias[:, :, None, None]
        return masks

    def _transform(self, image: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Let prompts and image attend to each other: mask tokens (N*K, E), (N*K, E, h, w)."""
        encoder, decoder = self.prompt_encoder, self.mask_decoder
        batch, classes = prompts.shape[:2]
        negative, positive, corner1, corner2 = (e.weight for e in encoder.point_embeddings)
        prompts = prompts + torch.cat([positive, negative, corner1, corner2])
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat(
            [output_tokens.expand(batch * classes, -1, -1), prompts.flatten(0, 1)], dim=1
        )
        dense = image + encoder.no_mask_embed.weight[:, :, None, None]
        source = dense.repeat_interleave(classes, dim=0)
        place = self.positions((image.shape[-2], image.shape[-1]))
        tokens, source = decoder.transformer(source, place.expand(source.shape), tokens)
        return tokens[:, 1], source.transpose(1, 2).reshape(batch * classes, *image.shape[1:])
