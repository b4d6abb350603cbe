"""Class prompts: what SAM's decoder is asked for, one question per class ([SC]).

    features  F levels (N, C_i, h_i, w_i), positions F x (E, h_i, w_i)
    queries   (K, 4, E) indicators of the class table -> attend to all levels -> tokens (N, K, 4, E)
    coarse    finest level, without positions -> mask logits (N, K, h_F, w_F), supervised
    presence  class tokens and the coarse mask's maximum -> logits (N, K)
    prompts   class tokens and presence -> (N, K, 4, E), order: positive, negative, box, box

The presence that shapes the prompts is the true one where it is given (teacher forcing in
training) and the network's own probability elsewhere. The own probability passes no gradient back:
presence is learned from its own loss and the coarse mask's. Without a coarse mask every place of a
slice answers for its one presence, and small lesions are hardly noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.modeling.class_table import PROMPTS_PER_CLASS, ClassRows

_HEADS = 4
"""Heads of the attention that pools the features."""


class ClassAnswers(NamedTuple):
    """What is said about every class of a slice."""

    prompts: Tensor
    """(N, K, 4, E)"""
    presence_logits: Tensor
    """(N, K)"""
    coarse_logits: Tensor
    """(N, K, h_F, w_F)"""


class ClassPrompts(nn.Module):
    """Pool features by class, predict presence, and write the class's prompts."""

    def __init__(self, dim: int, *, level_channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Linear(channels, dim) for channels in level_channels)
        self.level_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.token_norm = nn.LayerNorm(dim)
        self.presence = nn.Linear(PROMPTS_PER_CLASS * dim, 1)
        self.present_absent = nn.Parameter(torch.randn(2, dim))
        self.prompt_mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self,
        rows: ClassRows,
        features: Sequence[Tensor],
        positions: Sequence[Tensor],
        presence: Tensor | None,
    ) -> ClassAnswers:
        """Answer for every class.

        Args:
            rows: Of the K classes.
            features: Levels (N, C_i, h_i, w_i), the finest one last.
            positions: SAM's position encoding of each level, (E, h_i, w_i).
            presence: (N, K) in {0, 1}, NaN where unknown; None where nothing is known.
        """
        contents = [
            self.level_norm(level(x.flatten(2).transpose(1, 2)))
            for level, x in zip(self.levels, features, strict=True)
        ]
        places = [place.flatten(1).T for place in positions]
        memory = [content + place for content, place in zip(contents, places, strict=True)]
        tokens = self._pool(rows.indicators, torch.cat(memory, dim=1))
        coarse = F.linear(contents[-1], rows.coarse_kernel, rows.coarse_bias).transpose(1, 2)
        logits = self.presence(tokens.flatten(2)).squeeze(-1)
        logits = logits + rows.peak_weight * coarse.amax(dim=-1) + rows.peak_bias
        known = torch.sigmoid(logits.detach())
        if presence is not None:
            known = torch.where(torch.isnan(presence), known, presence.to(known.dtype))
        share = known[:, :, None, None]
        present, absent = self.present_absent
        prompts = self.prompt_mlp(tokens + share * present + (1 - share) * absent)
        return ClassAnswers(prompts, logits, coarse.reshape(*logits.shape, *features[-1].shape[2:]))

    def _pool(self, indicators: Tensor, memory: Tensor) -> Tensor:
        """Let the indicators attend to all places (N, L, E): class tokens (N, K, 4, E)."""
        batch, length, dim = memory.shape
        query = self.query(indicators.flatten(0, 1)).view(-1, _HEADS, dim // _HEADS)
        key, value = self.key_value(memory).view(batch, length, 2, _HEADS, -1).unbind(2)
        found = F.scaled_dot_product_attention(
            query.transpose(0, 1).expand(batch, -1, -1, -1),
            key.transpose(1, 2),
            value.transpose(1, 2),
        )
        found = self.out(found.transpose(1, 2).flatten(2))
        return self.token_norm(indicators + found.view(batch, *indicators.shape))  # type: ignore[no-any-return]
