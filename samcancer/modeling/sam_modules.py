"""SAM's prompt encoder and mask decoder: their weights, and of their code what is run.

    tokens (B, n, E), image (B, E, h, w), places (B, E, h, w)
    TwoWayTransformer                  -> tokens (B, n, E), image (B, h w, E)
    MaskDecoder.output_upscaling       (B, E, h, w) -> (B, E/8, 4h, 4w)
    PromptEncoder.mask_downscaling     (B, 1, 4h, 4w) -> (B, E, h, w)

Names, shapes and the order of random draws are those of ``segment_anything.modeling`` 1.0 (Kirillov
et al. 2023, appendix A; Apache-2.0), so that official weights load and a seed gives the same
network. Importing it would take as long as importing torch, because of torchvision.
:class:`~samcancer.modeling.mask_decoder.PromptedMaskDecoder` puts the parts together.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.layers import ChannelLayerNorm

_POINT_KINDS = 4
"""Outside, inside, first and second corner of a box."""

_MASK_CHANNELS = 16
"""Channels of an embedded mask before the last convolution."""

_CROSS_ATTENTION_SHRINKS = 2
"""Times that attention between tokens and image is narrower than the embedding."""

_QUALITY_WIDTH = 256
"""Hidden width of the head that predicts a mask's quality."""


class PromptEncoder(nn.Module):
    """Embeddings of points, box corners and masks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pe_layer = PositionFrequencies(dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(_POINT_KINDS))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, _MASK_CHANNELS // 4, kernel_size=2, stride=2),
            ChannelLayerNorm(_MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS // 4, _MASK_CHANNELS, kernel_size=2, stride=2),
            ChannelLayerNorm(_MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def kinds(self) -> Tensor:
        """Embeddings of an outside point, an inside point and a box's two corners, (4, E)."""
        return torch.cat([cast(Tensor, kind.weight) for kind in self.point_embeddings])


class PositionFrequencies(nn.Module):
    """Random frequencies (2, E/2) of the position encoding, for x and y."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, count))


class MaskDecoder(nn.Module):
    """Tokens of masks, the transformer, and what makes masks of both.

    Args:
        transformer: For embeddings of E channels.
        extra_mask_tokens: SAM's tokens for parts and wholes; only the first token makes a mask.
    """

    def __init__(self, transformer: TwoWayTransformer, *, extra_mask_tokens: int) -> None:
        super().__init__()
        dim, masks = transformer.dim, 1 + extra_mask_tokens
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            ChannelLayerNorm(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(dim, dim, dim, dim // 8) for _ in range(masks)
        )
        self.iou_prediction_head = Perceptron(dim, _QUALITY_WIDTH, _QUALITY_WIDTH, masks)


class Perceptron(nn.Module):
    """Linear layers of these widths with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, k) for n, k in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., first width) -> (..., last width)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        last: Tensor = self.layers[-1](x)
        return last


class TwoWayTransformer(nn.Module):
    """Tokens and image attend to each other ``depth`` times, then the tokens to the image."""

    def __init__(self, dim: int, *, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads=heads, mlp_dim=mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, heads, shrink=_CROSS_ATTENTION_SHRINKS)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, n, E) and image (B, h w, E).

        Args:
            image: (B, E, h, w).
            places: Position encoding, (B, E, h, w).
            tokens: (B, n, E); they are their own position encoding.
        """
        keys, key_places = (x.flatten(2).permute(0, 2, 1) for x in (image, places))
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_places)
        found = self.final_attn_token_to_image(queries + tokens, keys + key_places, keys)
        return self.norm_final_attn(queries + found), keys


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, pass an MLP, and the image attends to them."""

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, shrink=_CROSS_ATTENTION_SHRINKS)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMlp(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, shrink=_CROSS_ATTENTION_SHRINKS)

    def forward(
        self, queries: Tensor, keys: Tensor, query_places: Tensor, key_places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return new queries (B, n, E) and keys (B, h w, E)."""
        if self.first:  # the queries are still their own places, and are not added to themselves
            queries = self.norm1(self.self_attn(queries, queries, queries))
        else:
            placed = queries + query_places
            queries = self.norm1(queries + self.self_attn(placed, placed, queries))
        placed_keys = keys + key_places
        found = self.cross_attn_token_to_image(queries + query_places, placed_keys, keys)
        queries = self.norm2(queries + found)
        queries = self.norm3(queries + self.mlp(queries))
        found = self.cross_attn_image_to_token(placed_keys, queries + query_places, queries)
        return queries, self.norm4(keys + found)


class TokenMlp(nn.Module):
    """Two linear layers with ReLU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, E) -> (B, n, E)."""
        changed: Tensor = self.lin2(F.relu(self.lin1(x)))
        return changed


class Attention(nn.Module):
    """Multi-head attention whose heads together have ``dim / shrink`` channels."""

    def __init__(self, dim: int, heads: int, *, shrink: int = 1) -> None:
        super().__init__()
        inner = dim // shrink
        if inner % heads:
            msg = f"{heads} heads do not divide {inner} channels"
            raise ValueError(msg)
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, n, E), (B, m, E), (B, m, E) -> (B, n, E)."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        shares = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
        found: Tensor = self.out_proj((shares @ v).transpose(1, 2).flatten(2))
        return found
