"""Class prompts: what SAM's decoder is asked for, one question per class ([SC]).

    features  F levels (N, C_i, h_i, w_i), positions F x (E, h_i, w_i)
    queries   (K, 4, E) learned indicators -> attend to all levels -> class tokens (N, K, 4, E)
    presence  class tokens -> logits (N, K)
    prompts   class tokens and presence -> (N, K, 4, E), order: positive, negative, box, box

The presence that shapes the prompts is the true one where it is given (teacher forcing in
training) and the network's own probability elsewhere. The own probability passes no gradient back:
presence is learned from its own loss only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PROMPTS_PER_CLASS = 4
"""SAM's sparse prompts: positive point, negative point and the two corners of a box."""

_HEADS = 4
"""Heads of the attention that pools the features."""


class ClassPrompts(nn.Module):
    """Pool features by class, predict presence, and write the class's prompts."""

    def __init__(self, classes: int, dim: int, *, level_channels: Sequence[int]) -> None:
        super().__init__()
        self.indicators = nn.Parameter(torch.randn(classes, PROMPTS_PER_CLASS, dim))
        self.levels = nn.ModuleList(nn.Linear(channels, dim) for channels in level_channels)
        self.level_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.token_norm = nn.LayerNorm(dim)
        self.presence = nn.Linear(PROMPTS_PER_CLASS * (dim + _HEADS), 1)
        self.present_absent = nn.Parameter(torch.randn(2, dim))
        self.prompt_mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self, features: Sequence[Tensor], positions: Sequence[Tensor], presence: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Answer for every class.

        Args:
            features: Levels (N, C_i, h_i, w_i).
            positions: SAM's position encoding of each level, (E, h_i, w_i).
            presence: (N, K) in {0, 1}, NaN where unknown; None where nothing is known.

        Returns:
            Prompts (N, K, 4, E) and presence logits (N, K).
        """
        tokens, evidence = self._pool(features, positions)
        logits = self.presence(torch.cat([tokens, evidence], dim=-1).flatten(2)).squeeze(-1)
        known = torch.sigmoid(logits.detach())
        if presence is not None:
            known = torch.where(torch.isnan(presence), known, presence.to(known.dtype))
        share = known[:, :, None, None]
        present, absent = self.present_absent
        return self.prompt_mlp(tokens + share * present + (1 - share) * absent), logits

    def _pool(
        self, features: Sequence[Tensor], positions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Class tokens (N, K, 4, E), and how well each query matched anywhere (N, K, 4, heads)."""
        memory = torch.cat(
            [
                self.level_norm(level(x.flatten(2).transpose(1, 2))) + place.flatten(1).T
                for level, x, place in zip(self.levels, features, positions, strict=True)
            ],
            dim=1,
        )
        batch, length, dim = memory.shape
        query = self.query(self.indicators.flatten(0, 1)).view(-1, _HEADS, dim // _HEADS)
        key, value = self.key_value(memory).view(batch, length, 2, _HEADS, -1).unbind(2)
        match = torch.einsum("qhd,nlhd->nhql", query, key) / math.sqrt(dim // _HEADS)
        found = torch.einsum("nhql,nlhd->nqhd", match.softmax(dim=-1), value)
        evidence = torch.logsumexp(match, dim=-1) - math.log(length)
        shape = (batch, len(self.indicators), PROMPTS_PER_CLASS, -1)
        tokens = self.token_norm(self.indicators + self.out(found.reshape(shape)))
        return tokens, evidence.transpose(1, 2).reshape(shape)
