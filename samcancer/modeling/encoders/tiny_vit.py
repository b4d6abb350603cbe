"""TinyViT as LiteMedSAM uses it, in the four stages that every encoder here has.

    images (B, 1, S, S) in [0, 1] -> embed -> tokens (B, S, S, 64)
    tokens -> stage 0 -> (B, S/2, S/2, 128)    convolutional blocks
    tokens -> stage 1 -> (B, S/4, S/4, 160)    windows of 7
    tokens -> stage 2 -> (B, S/4, S/4, 320)    windows of 14
    tokens -> stage 3 -> (B, S/4, S/4, 320)    windows of 7
    tokens -> neck -> image embedding (B, 256, S/4, S/4)

Wu et al., *TinyViT* (2022); LiteMedSAM (Ma et al., the baseline of *Segment Anything in Medical
Images on Laptop*, 2024) keeps the full resolution in its patch embedding and halves it twice only.
Batch norm of the official weights is folded into the convolutions, which therefore have biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.encoders.vit import join_windows, split_windows
from samcancer.modeling.layers import ChannelLayerNorm

DIMS = (64, 128, 160, 320)
"""Channels inside the stages."""

DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
STRIDES = (2, 2, 1)
"""Of the steps between the stages."""

EMBEDDING_STRIDE = 4
"""Pixels along the side of a place of the image embedding."""

OUT_CHANNELS = 256
INPUT_CHANNELS = 3
"""Of the official patch embedding; grey images are three equal ones."""

_EXPANSION = 4
_BATCH_NORM_EPS = 1e-5

_HIDDEN_COPIES = 2.8
"""Times the first block's hidden layer is held at once, which is most of the memory."""

_CONV_SUFFIX = ".c.weight"
_NORM_SUFFIXES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class TinyVit(nn.Module):
    """The image encoder of LiteMedSAM."""

    embedding_stride = EMBEDDING_STRIDE
    out_channels = OUT_CHANNELS
    stage_dims = (*DIMS[1:], DIMS[-1])
    """Channels after each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            nn.Conv2d(1, DIMS[0] // 2, 1), nn.GELU(), nn.Conv2d(DIMS[0] // 2, DIMS[0], 1)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(_block(stage) for _ in range(depth)))
            for stage, depth in enumerate(DEPTHS)
        )
        self.merges = nn.ModuleList(
            Merge(fine, coarse, stride=stride)
            for (fine, coarse), stride in zip(pairwise(DIMS), STRIDES, strict=True)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], OUT_CHANNELS, 1, bias=False),
            ChannelLayerNorm(OUT_CHANNELS),
            nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 3, padding=1, bias=False),
            ChannelLayerNorm(OUT_CHANNELS),
        )

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> tokens (B, S, S, 64)."""
        return _last(self.patch_embed(images))

    def stage(self, index: int, tokens: Tensor) -> Tensor:
        """Run the blocks of a stage and the step to the next one."""
        tokens = self.stages[index](tokens)
        return self.merges[index](tokens) if index < len(self.merges) else tokens

    def embedding(self, tokens: Tensor) -> Tensor:
        """(B, S/4, S/4, 320) -> image embedding (B, 256, S/4, S/4)."""
        image: Tensor = self.neck(_first(tokens))
        return image

    def working_bytes(self, image_size: int) -> int:
        """Return about how much memory an image takes at inference, float32."""
        return round(4 * _HIDDEN_COPIES * _EXPANSION * DIMS[0] * image_size**2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1] -> image embedding (B, 256, S/4, S/4)."""
        tokens = self.embed(images)
        for index in range(len(self.stages)):
            tokens = self.stage(index, tokens)
        return self.embedding(tokens)


class MbConv(nn.Module):
    """Inverted bottleneck: widen, depthwise 3 x 3, narrow; residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = _EXPANSION * dim
        self.conv1 = nn.Conv2d(dim, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.conv3 = nn.Conv2d(hidden, dim, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        x = _first(tokens)
        y = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return _last(F.gelu(x + y))


class WindowBlock(nn.Module):
    """Window attention, depthwise convolution and MLP."""

    def __init__(self, dim: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, heads=heads, window=window)
        self.local_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, _EXPANSION * dim),
            nn.GELU(),
            nn.Linear(_EXPANSION * dim, dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D); a grid that windows do not divide is padded with zeros."""
        windows = self.attn(split_windows(tokens, self.window))
        tokens = tokens + join_windows(windows, tokens.shape[1:3])
        tokens = _last(self.local_conv(_first(tokens)))
        return tokens + self.mlp(tokens)  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Attention inside a window, with a learned bias for each distance in rows and columns."""

    distance: Tensor

    def __init__(self, dim: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        place = torch.arange(window * window)
        rows, columns = ((x[:, None] - x[None]).abs() for x in (place // window, place % window))
        self.register_buffer("distance", rows * window + columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, n, D) -> (B, n, n, D)."""
        qkv = self.qkv(self.norm(x)).flatten(1, 2).unflatten(-1, (self.heads, -1))
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
        bias = self.attention_biases[:, self.distance]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        projected: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
        return projected


class Merge(nn.Module):
    """The step to the next stage: other channels, and half the grid unless stride is 1."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1)
        self.conv2 = nn.Conv2d(
            out_channels, out_channels, 3, stride=stride, padding=1, groups=out_channels
        )
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h / stride, w / stride, D)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(_first(tokens)))))
        return _last(self.conv3(x))


def official_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the official encoder's weights, fold batch norm, and sum equal input channels.

    Args:
        state: Keys as in ``lite_medsam.pth`` below ``image_encoder.``; what has no place here keeps
            its name, so that strict loading names it.
    """
    found = {}
    folded = set()
    for key in state:
        if key.endswith(_CONV_SUFFIX) and key.replace(_CONV_SUFFIX, ".bn.weight") in state:
            base = key.removesuffix(_CONV_SUFFIX)
            norm = {name: state[f"{base}.bn.{name}"] for name in _NORM_SUFFIXES}
            weight, bias = _fold_batch_norm(state[key], norm)
            if base == "patch_embed.seq.0" and weight.shape[1] == INPUT_CHANNELS:
                weight = weight.sum(dim=1, keepdim=True)
            found[f"{_renamed(base)}.weight"], found[f"{_renamed(base)}.bias"] = weight, bias
            folded |= {key, *(f"{base}.bn.{name}" for name in _NORM_SUFFIXES)}
    return {**found, **{_renamed(k): v for k, v in state.items() if k not in folded}}


def _fold_batch_norm(weight: Tensor, norm: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    scale = norm["weight"].double() / (norm["running_var"].double() + _BATCH_NORM_EPS).sqrt()
    bias = norm["bias"].double() - norm["running_mean"].double() * scale
    return (weight.double() * scale[:, None, None, None]).to(weight.dtype), bias.to(weight.dtype)


def _renamed(key: str) -> str:
    """``layers.1.blocks.0.mlp.fc1.weight`` -> ``stages.1.0.mlp.1.weight``, and so on."""
    key = key.replace("patch_embed.seq.", "patch_embed.")
    parts = key.split(".")
    if parts[0] == "layers" and len(parts) > 3 and parts[2] == "blocks":
        parts = ["stages", parts[1], *parts[3:]]
    elif parts[0] == "layers" and len(parts) > 3 and parts[2] == "downsample":
        parts = ["merges", parts[1], *parts[3:]]
    mlp = {"norm": "0", "fc1": "1", "fc2": "3"}
    for i, part in enumerate(parts[:-1]):
        if part == "mlp":
            parts[i + 1] = mlp.get(parts[i + 1], parts[i + 1])
    return ".".join(parts)


def _block(stage: int) -> nn.Module:
    dim = DIMS[stage]
    if stage == 0:
        return MbConv(dim)
    return WindowBlock(dim, heads=HEADS[stage], window=WINDOWS[stage])


def _first(tokens: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w), a view."""
    return tokens.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w, C), a view."""
    return x.permute(0, 2, 3, 1)
