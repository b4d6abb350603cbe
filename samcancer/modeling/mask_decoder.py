"""SAM's mask decoder with all classes at once and the CNN's fine detail.

    image embedding (N, E, h, w), prompts (N, K, 4, E), pixels (N, w, S, S) with S = 16 h
    manual prompts of a slice and class        -> more tokens (p, E), dense embedding (E, h, w)
    two-way transformer, per class     -> mask token (N, K, E), image (N*K, E, h, w)
    upscaling x 4                      -> (N*K, E/8, 4h, 4w)
    hypernetwork(mask token)           -> (N, K, E/8)
    mask = hypernetwork . (upscaled image interpolated to S + pixel embedding (E/8, S, S))
           + pixel kernel (K, w) of the class table . pixels
                                       -> (N, K, S, S)

The pixel kernel is a U-Net's last layer: the CNN learns from it at once, before the transformer's
tokens mean anything; without it the first masks are little more than where a class usually lies.
Kirillov et al. 2023, appendix A. The product is linear in both of its terms, so it is taken before
interpolation (one channel a class instead of E/8) and before the 1x1 convolution that makes the
pixel embedding: the same masks for less work.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.class_table import ClassRows
from samcancer.modeling.manual_prompts import NO_POINT, ManualPrompts, PromptMaps
from samcancer.modeling.sam_modules import MaskDecoder, PromptEncoder

_PAIRS_AT_ONCE = 16
"""Slices and classes that go through the transformer together at inference: what they take stays in
the processor's cache, and memory does not grow with the classes."""


class PromptedMaskDecoder(nn.Module):
    """One mask per class from SAM's prompt encoder and mask decoder."""

    def __init__(
        self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, *, pixel_width: int
    ) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.prompt_maps = PromptMaps(pixel_width)
        self.pixel_embedding = nn.Linear(pixel_width, mask_decoder.transformer.dim // 8)

    def positions(self, size: tuple[int, int]) -> Tensor:
        """SAM's position encoding of a grid, (E, h, w), in the precision of the weights."""
        matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        y, x = (
            (torch.arange(side, device=matrix.device, dtype=matrix.dtype) + 0.5) / side
            for side in size
        )
        to_x, to_y = matrix[:, None, None]
        angles = 2 * math.pi * ((2 * x - 1)[:, None] * to_x + (2 * y - 1)[:, None, None] * to_y)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)

    def forward(
        self,
        rows: ClassRows,
        image: Tensor,
        prompts: Tensor,
        pixels: Tensor,
        manual: ManualPrompts | None = None,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Return the mask logits (N, K, S, S).

        Args:
            rows: Of the K classes.
            image: Image embedding (N, E, h, w).
            prompts: Class prompts (N, K, 4, E).
            pixels: (N, w, S, S).
            manual: Slice by slice, (N, K, ...).
            wanted: (N, K) bool, slices and classes whose mask is asked for; None asks for all. The
                transformer runs for these alone, and the other masks mean nothing.
        """
        batch, classes = prompts.shape[:2]
        pairs = torch.arange(batch * classes, device=image.device)
        if wanted is not None:
            pairs = wanted.flatten().nonzero().flatten()
        blocks = [pairs] if torch.is_grad_enabled() else torch.split(pairs, _PAIRS_AT_ONCE)
        size = pixels.shape[-1]
        answers = [self._answer(image, prompts, manual, block, size=size) for block in blocks]
        coarse, kernel = (
            x[0]
            .new_zeros(batch * classes, *x[0].shape[1:])
            .index_copy(0, pairs, torch.cat(x))
            .unflatten(0, (batch, classes))
            for x in zip(*answers, strict=True)
        )
        kernels = kernel @ self.pixel_embedding.weight + rows.pixel_kernel
        fine = torch.einsum("nchw,nkc->nkhw", pixels, kernels)
        bias = kernel @ self.pixel_embedding.bias + rows.mask_bias
        coarse = F.interpolate(coarse, size=pixels.shape[-2:], mode="bilinear")
        masks: Tensor = self.prompt_maps(fine + coarse + bias[:, :, None, None], pixels, manual)
        return masks

    def _answer(
        self,
        image: Tensor,
        prompts: Tensor,
        manual: ManualPrompts | None,
        pairs: Tensor,
        *,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the masks at the upscaled image (P, 4h, 4w), and their kernels (P, E/8)."""
        tokens, images = self._transform(image, prompts, manual, pairs, size=size)
        upscaled = self.mask_decoder.output_upscaling(images)
        kernel = self.mask_decoder.output_hypernetworks_mlps[0](tokens)
        return torch.einsum("kchw,kc->khw", upscaled, kernel), kernel

    def _transform(
        self,
        image: Tensor,
        prompts: Tensor,
        manual: ManualPrompts | None,
        pairs: Tensor,
        *,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Let prompts and image attend to each other: mask tokens (P, E), (P, E, h, w).

        ``pairs`` are the P places in the flat (N * K) list of slices and classes.
        """
        encoder, decoder = self.prompt_encoder, self.mask_decoder
        classes = prompts.shape[1]
        negative, positive, corner1, corner2 = encoder.kinds()
        prompts = prompts.flatten(0, 1)[pairs] + torch.stack([positive, negative, corner1, corner2])
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(len(pairs), -1, -1), prompts], dim=1)
        dense = encoder.no_mask_embed.weight[:, :, None, None]
        source = (image + dense)[pairs // classes]
        if manual is not None:
            manual = manual.map(lambda x: x.flatten(0, 1)[pairs])
            if manual.masks is not None:
                source = self._with_masks(source, manual.masks)
        place = self.positions((image.shape[-2], image.shape[-1])).expand(source.shape)
        if manual is None:
            tokens, source = decoder.transformer(source, place, tokens)
        else:
            tokens, source = self._transform_groups(tokens, source, place, manual, size=size)
        return tokens[:, 1], source.transpose(1, 2).reshape(len(pairs), *image.shape[1:])

    def _transform_groups(
        self, tokens: Tensor, source: Tensor, place: Tensor, manual: ManualPrompts, *, size: int
    ) -> tuple[Tensor, Tensor]:
        """Run slices and classes with equally many points together: no token stands for none."""
        points, kinds = manual.points, manual.kinds
        counts = (kinds != NO_POINT).sum(dim=1)
        groups = [(counts == count).nonzero().flatten() for count in torch.unique(counts)]
        found = []
        for group in groups:
            count = int(counts[group[0]])
            given = self._point_tokens(points[group, :count], kinds[group, :count], size=size)
            joined = torch.cat([tokens[group], given], dim=1)
            answers, images = self.mask_decoder.transformer(source[group], place[group], joined)
            found.append((answers[:, : tokens.shape[1]], images))
        order = torch.cat(groups).argsort()
        answers, images = (torch.cat(parts)[order] for parts in zip(*found, strict=True))
        return answers, images

    def _point_tokens(self, points: Tensor, kinds: Tensor, *, size: int) -> Tensor:
        """Embed points (G, p, 2) of kinds (G, p) as SAM does: (G, p, E).

        SAM adds a token for "no box" to points without one; the class prompts hold a box always.
        """
        encoder = self.prompt_encoder
        matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * (points.to(matrix) + 0.5) / size - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1) + encoder.kinds()[kinds]

    def _with_masks(self, source: Tensor, masks: Tensor) -> Tensor:
        """Put the embedding of a mask (S, S) in the place of "no mask", where there is one."""
        given = (~masks[:, 0, 0].isnan()).nonzero().flatten()
        encoder = self.prompt_encoder
        side = [4 * length for length in source.shape[-2:]]
        shrunk = F.interpolate(masks[given, None].to(source), size=side, mode="bilinear")
        change = encoder.mask_downscaling(shrunk) - encoder.no_mask_embed.weight[:, :, None, None]
        return source.index_add(0, given, change)
