"""What every way of running a network over a case gives: a stream of predicted slices."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from samcancer.config import WindowHu
from samcancer.errors import InputError
from samcancer.modeling.layers import ABSENT_LOGIT

_log = logging.getLogger(__name__)

PROBABILITY_FLOOR = 1e-7
"""Averaged probabilities are kept this far from 0 and 1, so that their logits are finite."""

UNCALIBRATED_THRESHOLD = 0.5
"""Presence threshold of a class for which none was calibrated."""


MASK_THRESHOLD = 0.5
"""Probability above which a voxel belongs to a class for which nothing else was calibrated."""


@dataclass(frozen=True)
class Member:
    """One network of an ensemble and the HU window that its input is mapped by."""

    model: nn.Module
    window_hu: WindowHu


class SlicePrediction(NamedTuple):
    """What is said about the slices ``start`` to ``start + n`` of a case."""

    start: int
    logits: Tensor
    """(n, K, S, S) float32 mask logits; gated by presence where thresholds were given."""
    presence: Tensor
    """(n, K) float32 presence probabilities."""
    agreement: Tensor | None = None
    """(n, K, S, S) share of the networks whose own probability is above a half, each mirrored look
    counted too; None of a network that is alone."""

    def part(self, first: int, stop: int) -> SlicePrediction:
        """Return what is said about the slices ``start + first`` to ``start + stop``."""
        agreement = None if self.agreement is None else self.agreement[first:stop]
        parts = self.logits[first:stop], self.presence[first:stop], agreement
        return SlicePrediction(self.start + first, *parts)

    def repeated(self, count: int) -> SlicePrediction:
        """Return what is said about one slice for ``count`` slices."""
        agreement = None if self.agreement is None else _repeated(self.agreement, count)
        parts = _repeated(self.logits, count), _repeated(self.presence, count), agreement
        return SlicePrediction(self.start, *parts)


def joined(pieces: Sequence[SlicePrediction]) -> SlicePrediction:
    """Return predictions of slices that follow one another as one."""
    if len(pieces) == 1:
        return pieces[0]
    shares = [piece.agreement for piece in pieces if piece.agreement is not None]
    return SlicePrediction(
        pieces[0].start,
        torch.cat([piece.logits for piece in pieces]),
        torch.cat([piece.presence for piece in pieces]),
        torch.cat(shares) if shares else None,
    )


def gate_logits(logits: Tensor, present: Tensor) -> Tensor:
    """Return the logits (..., K, S, S) with ``ABSENT_LOGIT`` where ``present`` (..., K) is not."""
    return logits.masked_fill(~present[..., None, None], ABSENT_LOGIT)


def threshold_vector(thresholds: Mapping[str, float], class_names: Sequence[str]) -> Tensor:
    """Return (K,) presence thresholds in the order of ``class_names``."""
    return torch.tensor([float(thresholds.get(n, UNCALIBRATED_THRESHOLD)) for n in class_names])


def logit_thresholds(probabilities: Sequence[float]) -> Tensor:
    """Return (n,) float32 logits of probability thresholds; a voxel is marked above its own."""
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64)).float()


def _repeated(values: Tensor, count: int) -> Tensor:
    return values.expand(count, *values.shape[1:])


def halved_on_full_gpu(count: int, what: str) -> int:
    """Return half of what did not fit into the GPU's memory, with room made for it.

    Raises:
        InputError: When not even one fits.
    """
    if count == 1:
        raise InputError(
            f"the GPU has too little memory for a single {what}", mend="use --device cpu"
        ) from None
    _log.warning("GPU out of memory with %d of a %s; going on with %d", count, what, count // 2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return count // 2
