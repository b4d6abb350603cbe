"""Several systems as one: their probabilities combined class by class ([SC] abstract).

A part is an ensemble of networks of one system. For each class a rule says how the probabilities
p_i of the parts become one: ``mean`` sum w_i p_i with weights that sum to 1, ``both`` the smallest
(a voxel needs every part), ``either`` the largest. Presence is combined alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from samcancer.modeling.slice_prediction import Member

Rule = Literal["mean", "both", "either"]


class ClassRule(NamedTuple):
    """How the parts' probabilities of one class are combined."""

    rule: Rule
    weights: tuple[float, ...]
    """Of the parts, for ``mean``; they sum to 1."""


def combine_class(probability: Tensor, rule: ClassRule) -> Tensor:
    """Return (...) probabilities of one class from those of the parts, (P, ...)."""
    if rule.rule == "both":
        return probability.amin(dim=0)
    if rule.rule == "either":
        return probability.amax(dim=0)
    weights = torch.tensor(rule.weights, dtype=probability.dtype, device=probability.device)
    mean: Tensor = torch.tensordot(weights, probability, dims=1)
    return mean


class FusedNet(nn.Module):
    """Networks of several systems and the rules that combine what they say."""

    def __init__(
        self,
        class_names: Sequence[str],
        parts: Sequence[Sequence[Member]],
        rules: Sequence[ClassRule],
    ) -> None:
        """Put the parts together.

        Args:
            class_names: K, which all networks share.
            parts: P ensembles.
            rules: Of each class.

        Raises:
            ValueError: When a rule does not fit the parts.
        """
        super().__init__()
        for name, rule in zip(class_names, rules, strict=True):
            if rule.rule == "mean" and (
                len(rule.weights) != len(parts) or abs(sum(rule.weights) - 1) > 1e-6
            ):
                raise ValueError(f"{name}: weights {rule.weights} of {len(parts)} parts")
        self.class_names = tuple(class_names)
        self.rules = tuple(rules)
        self.nets = nn.ModuleList(m.model for part in parts for m in part)
        self._parts = tuple(tuple(part) for part in parts)

    def parts_as_members(self) -> tuple[tuple[Member, ...], ...]:
        """Return the ensembles."""
        return self._parts

    def combine(self, probability: Tensor) -> Tensor:
        """Return (n, K, ...) from the parts' probabilities (P, n, K, ...)."""
        classes = [combine_class(probability[:, :, k], rule) for k, rule in enumerate(self.rules)]
        return torch.stack(classes, dim=1)
