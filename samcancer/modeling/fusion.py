"""Several systems as one: their probabilities combined class by class ([SC] abstract).

    probabilities of P parts (P, n, K, S, S) -> (n, K, S, S)

A part is an ensemble of networks of one system. For each class a rule says how the probabilities
p_i of the parts become one: ``mean`` sum w_i p_i with weights that sum to 1 (one part alone has the
weight 1), ``both`` the smallest (a voxel needs every part), ``either`` the largest. Presence is
combined alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from samcancer.modeling.slice_prediction import Member

Rule = Literal["mean", "both", "either"]

_WEIGHT_TOLERANCE = 1e-6
"""By which weights may miss a sum of 1."""


class ClassRule(NamedTuple):
    """How the parts' probabilities of one class are combined."""

    rule: Rule
    weights: tuple[float, ...] = ()
    """Of the parts, for ``mean``; they sum to 1."""

    def describe(self, names: Sequence[str]) -> str:
        """Return the rule in words, such as ``0.25 a + 0.75 b``.

        Args:
            names: Of the parts.
        """
        if self.rule != "mean":
            return self.rule
        used = [(w, name) for w, name in zip(self.weights, names, strict=True) if w]
        if len(used) == 1:
            return f"{used[0][1]} alone"
        return " + ".join(f"{weight:.2f} {name}" for weight, name in used)


def combine_class(probability: Tensor, rule: ClassRule) -> Tensor:
    """Return (...) probabilities from those of the parts, (P, ...)."""
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
            parts: P ensembles; each network keeps its own HU window.
            rules: Of each class.

        Raises:
            ValueError: When a rule does not fit the parts.
        """
        super().__init__()
        for name, rule in zip(class_names, rules, strict=True):
            if rule.rule == "mean" and (
                len(rule.weights) != len(parts) or abs(sum(rule.weights) - 1) > _WEIGHT_TOLERANCE
            ):
                raise ValueError(f"{name}: weights {rule.weights} of {len(parts)} parts")
        self.class_names = tuple(class_names)
        self.rules = tuple(rules)
        self.parts = tuple(tuple(part) for part in parts)
        self.nets = nn.ModuleList(m.model for part in self.parts for m in part)

    def combine(self, probability: Tensor) -> Tensor:
        """Return (n, K, ...) from the parts' probabilities (P, n, K, ...)."""
        classes = [combine_class(probability[:, :, k], rule) for k, rule in enumerate(self.rules)]
        return torch.stack(classes, dim=1)


Predictor: TypeAlias = Member | FusedNet
"""What an ensemble is made of."""
