"""SAM's image encoder in four stages: a plain ViT with decomposed relative positions.

    images (B, 1, S, S) in [0, 1] -> embed -> tokens (B, S/16, S/16, D)
    tokens -> stage(0..3) -> tokens (B, S/16, S/16, D)
    tokens -> neck -> image embedding (B, E, S/16, S/16)

Kirillov et al., *Segment Anything* (2023), appendix A; Li et al., *Exploring Plain Vision
Transformer Backbones* (2022). Parameter names are those of the official checkpoints. Attention is
fused, and a grid smaller than two windows is one window of its own size: at 256 px SAM's padded
14-windows would spend 69 instead of 46.8 GFLOP a slice. CT has one channel; SAM's three equal
ones and their mean and standard deviation are folded into the patch convolution when its weights
are loaded (:mod:`samcancer.modeling.encoders.sam_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.layers import ChannelLayerNorm

PATCH_SIZE = 16
"""Pixels along the side of a token."""

STAGES = 4
"""Stages that the blocks are dealt into evenly; after each, the CNN branch is consulted."""

_INIT_STD = 0.02
"""Standard deviation of random position embeddings and linear weights (as in ViT)."""

_NORM_EPS = 1e-6

_TOKEN_COPIES = 12
"""Times the tokens are held at once: themselves, queries, keys, values, the MLP's hidden layer."""

_BIAS_COPIES = 11
"""Times the positions' bias of the attention is held at once, where attention is not fused."""


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """The architecture of a ViT."""

    dim: int
    depth: int
    heads: int
    out_channels: int
    """Channels of the image embedding."""
    window: int = 14
    """Tokens along the side of an attention window."""
    global_blocks: tuple[int, ...] = ()
    """Blocks that attend to the whole image whatever its size."""
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        """Check the divisions."""
        if self.dim % self.heads or self.depth % STAGES:
            msg = f"heads must divide dim and {STAGES} the depth, got {self!r}"
            raise ValueError(msg)


class ImageEncoder(nn.Module):
    """A ViT whose blocks run in four stages."""

    embedding_stride = PATCH_SIZE

    def __init__(self, shape: VitShape, image_size: int, *, padded_windows: bool = False) -> None:
        """Build the encoder.

        Args:
            shape: Its architecture.
            image_size: S, a multiple of 16.
            padded_windows: Keep the windows of ``shape`` on a small grid too, as SAM would.
        """
        super().__init__()
        self.shape = shape
        self.stage_dims = (shape.dim,) * STAGES
        self.out_channels = shape.out_channels
        self.grid = image_size // PATCH_SIZE
        self.patch_embed = PatchEmbed(shape.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, shape.dim))
        self.blocks = nn.ModuleList(
            Block(shape, window=window_of(shape, i, self.grid, padded=padded_windows))
            for i in range(shape.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(shape.dim, shape.out_channels, 1, bias=False),
            ChannelLayerNorm(shape.out_channels),
            nn.Conv2d(shape.out_channels, shape.out_channels, 3, padding=1, bias=False),
            ChannelLayerNorm(shape.out_channels),
        )
        self._initialise()

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> tokens (B, S/16, S/16, D)."""
        tokens: Tensor = self.patch_embed(images)
        return tokens + self.pos_embed

    def stage(self, index: int, tokens: Tensor) -> Tensor:
        """Run one quarter of the blocks: (B, h, w, D) -> (B, h, w, D)."""
        size = len(self.blocks) // STAGES
        for block in self._blocks()[index * size : (index + 1) * size]:
            tokens = block(tokens)
        return tokens

    def embedding(self, tokens: Tensor) -> Tensor:
        """(B, h, w, D) -> image embedding (B, E, h, w)."""
        image: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        return image

    def working_bytes(self, image_size: int) -> int:
        """Return about how much memory an image takes at inference, float32."""
        tokens = (image_size // PATCH_SIZE) ** 2
        largest: int = max(block.window for block in self._blocks()) ** 2
        bias = self.shape.heads * largest * max(tokens, largest)
        return 4 * (_TOKEN_COPIES * tokens * self.shape.dim + _BIAS_COPIES * bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> image embedding (B, E, S/16, S/16)."""
        tokens = self.embed(images)
        for index in range(STAGES):
            tokens = self.stage(index, tokens)
        return self.embedding(tokens)

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]  # a ModuleList forgets the type

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=_INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)


class PatchEmbed(nn.Module):
    """Cut the image into patches, one token each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, S/16, S/16, D)."""
        y: Tensor = self.proj(x)
        return y.permute(0, 2, 3, 1).contiguous()


class Block(nn.Module):
    """Attention and MLP, each residual and normalised before."""

    def __init__(self, shape: VitShape, *, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(shape.dim, eps=_NORM_EPS)
        self.attn = Attention(shape.dim, shape.heads, window=self.window)
        self.norm2 = nn.LayerNorm(shape.dim, eps=_NORM_EPS)
        self.mlp = Mlp(shape.dim, shape.mlp_ratio * shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        height, width = x.shape[1:3]
        y = self.norm1(x)
        if (height, width) == (self.window, self.window):
            y = self.attn(y)
        else:
            y = join_windows(self.attn(split_windows(y, self.window)), (height, width))
        x = x + y
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Fused multi-head attention in one square window with decomposed relative positions."""

    def __init__(self, dim: int, heads: int, *, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, n, D) -> (B, n, n, D)."""
        batch, n = x.shape[:2]
        qkv = self.qkv(x).view(batch, n * n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(q, n))
        projected: Tensor = self.proj(y.transpose(1, 2).reshape(batch, n, n, -1))
        return projected

    def _bias(self, q: Tensor, n: int) -> Tensor:
        """Queries (B, heads, n*n, d) -> what positions add to the logits (B, heads, n*n, n*n)."""
        place = torch.arange(n, device=q.device)
        offset = place[:, None] - place[None, :] + n - 1
        grid = q.reshape(*q.shape[:2], n, n, -1)
        rows = torch.einsum("bhrcd,rkd->bhrck", grid, self.rel_pos_h[offset])
        columns = torch.einsum("bhrcd,ckd->bhrck", grid, self.rel_pos_w[offset])
        bias: Tensor = rows.unsqueeze(-1) + columns.unsqueeze(-2)
        return bias.flatten(4).flatten(2, 3)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        y: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return y


def window_of(shape: VitShape, block: int, grid: int, *, padded: bool) -> int:
    """Return the tokens along the side of a block's attention windows."""
    if block in shape.global_blocks or (grid < 2 * shape.window and not padded):
        return grid
    return shape.window


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, h, w, D) -> (B * windows, window, window, D), zero-padded at the lower right."""
    batch, height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = x.view(batch, x.shape[1] // window, window, x.shape[2] // window, window, dim)
    return x.transpose(2, 3).flatten(0, 2)


def join_windows(windows: Tensor, size: Sequence[int]) -> Tensor:
    """Undo :func:`split_windows` for tokens of ``size`` (h, w)."""
    window = windows.shape[1]
    rows, columns = (-(-side // window) for side in size)
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1])
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : size[0], : size[1]]
