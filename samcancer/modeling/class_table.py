"""What the network holds of each class: one row of numbers, learned, written from text, or both.

    text (K, D) of a frozen text tower -> centred, unit length -> hidden (K, E) -> rows (K, R)
    learned rows (K, R)
    rows (K, R), the sum of what there is -> ClassRows, R = 4E + E + w + 4

An indicator is learned ([SC]); text writes the row of any class that has a name, so that a class
can be asked for that was never trained ([UM] section 3.2, where text writes the kernels of a head).
Text vectors of like sentences hardly differ, so the mean over a whole table of classes is taken off
first. With both, text begins at nothing and the learned row leads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.config import ClassPrompt
from samcancer.modeling.layers import PRIOR_LOGIT

PROMPTS_PER_CLASS = 4
"""SAM's sparse prompts: positive point, negative point and the two corners of a box."""


class TextVectors(NamedTuple):
    """What a text tower says of the classes."""

    vectors: Tensor
    """(K, D) float32, one a class."""
    mean: Tensor
    """(D,) mean over the table of classes that the vectors were built with."""


class ClassRows(NamedTuple):
    """A row, taken apart; R numbers a class."""

    indicators: Tensor
    """(K, 4, E) queries that pool the features."""
    coarse_kernel: Tensor
    """(K, E) of the coarse mask."""
    coarse_bias: Tensor
    """(K,)"""
    peak_weight: Tensor
    """(K,) of the coarse mask's maximum in the presence."""
    peak_bias: Tensor
    """(K,)"""
    pixel_kernel: Tensor
    """(K, w) of the mask on the CNN's pixels."""
    mask_bias: Tensor
    """(K,)"""


class _Start(NamedTuple):
    """Shape of a field and how it is drawn at first."""

    shape: tuple[int, ...]
    mean: float
    spread: float


def _fields(dim: int, width: int) -> Mapping[str, _Start]:
    """Return the fields of a row, in the order of ClassRows."""
    return {
        "indicators": _Start((PROMPTS_PER_CLASS, dim), 0.0, 1.0),
        "coarse_kernel": _Start((dim,), 0.0, 1 / math.sqrt(3 * dim)),
        "coarse_bias": _Start((), PRIOR_LOGIT, 0.0),
        "peak_weight": _Start((), 1.0, 0.0),
        "peak_bias": _Start((), -PRIOR_LOGIT / 2, 0.0),
        "pixel_kernel": _Start((width,), 0.0, 1 / (2 * math.sqrt(width))),
        "mask_bias": _Start((), PRIOR_LOGIT, 0.0),
    }


class ClassTable(nn.Module):
    """The rows of all classes."""

    class_tensors: ClassVar[Mapping[str, bool]] = {"rows": False, "text": False}
    """Tensors with a row a class -> whether the row of an added class starts at 0."""

    text: Tensor
    text_mean: Tensor

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        pixel_width: int,
        kind: ClassPrompt = "indicator",
        text: TextVectors | None = None,
    ) -> None:
        """Make learned rows, a writer of rows from ``text`` (for its kinds), or both."""
        super().__init__()
        self._fields = _fields(dim, pixel_width)
        self._sizes = [math.prod(field.shape) for field in self._fields.values()]
        mean, spread = (
            torch.cat([torch.full((n,), getattr(f, what)) for n, f in self._sized()])
            for what in ("mean", "spread")
        )
        learned = kind != "text"
        self.rows = (
            nn.Parameter(mean + spread * torch.randn(classes, len(mean))) if learned else None
        )
        self.hidden: nn.Linear | None = None
        self.write: nn.Linear | None = None
        if kind == "indicator":
            return
        if text is None or len(text.vectors) != classes:
            raise ValueError(f"class prompts of kind {kind!r} need {classes} text vectors")
        self.register_buffer("text", text.vectors.clone())
        self.register_buffer("text_mean", text.mean.clone())
        self.hidden = nn.Linear(text.vectors.shape[1], dim)
        self.write = nn.Linear(dim, len(mean))
        with torch.no_grad():
            share = 0.0 if learned else 1 / math.sqrt(dim)
            self.write.weight.copy_(share * spread[:, None] * torch.randn(len(mean), dim))
            self.write.bias.copy_(torch.zeros_like(mean) if learned else mean)

    def forward(self) -> ClassRows:
        """Return the rows of all classes."""
        rows = self.rows
        if self.hidden is not None and self.write is not None:
            direction = F.normalize(self.text - self.text_mean, dim=-1)
            hidden = self.hidden(direction * math.sqrt(direction.shape[-1]))
            written = self.write(F.layer_norm(F.gelu(hidden), hidden.shape[-1:]))
            rows = written if rows is None else rows + written
        assert rows is not None  # one of the two is always there
        parts = torch.split(rows, self._sizes, dim=-1)
        return ClassRows(
            *(
                part.view(len(part), *field.shape)
                for part, field in zip(parts, self._fields.values(), strict=True)
            )
        )

    def ask(self, vectors: Tensor) -> None:
        """Replace the classes by those of other text vectors (K', D), trained or not.

        Raises:
            ValueError: When the rows are not written from text alone.
        """
        if self.rows is not None or vectors.shape[1:] != self.text.shape[1:]:
            raise ValueError("only classes of kind 'text' can be asked for by a vector")
        self.text = vectors.to(self.text)

    def _sized(self) -> list[tuple[int, _Start]]:
        return list(zip(self._sizes, self._fields.values(), strict=True))
