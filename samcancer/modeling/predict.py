"""Run any network, or several, over all slices of a case; tensors only, no files.

Networks that look at five slices go through the engine, volume networks through sliding windows,
and what they say is combined slice by slice: the mean probability of an ensemble, or the rule of a
fusion. All yield the same stream, so validation, pseudo labels and inference ask no further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import WindowHu
from samcancer.errors import InputError
from samcancer.modeling.chunks import SliceSource
from samcancer.modeling.engine import autocast_of, evaluating, predict_stacks
from samcancer.modeling.fusion import FusedNet, Predictor
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import (
    PROBABILITY_FLOOR,
    Member,
    SlicePrediction,
    gate_logits,
    joined,
)
from samcancer.modeling.sliding_window import WindowOptions, predict_windows
from samcancer.modeling.universal_net import UniversalNet

_DEFAULTS = PredictOptions()

_HALF = 0.5
"""Probability above which a network marks a voxel."""

_COMBINED_SLICES = 8
"""Slices that are combined at once."""

Combine = Callable[[Tensor], Tensor]
"""Probabilities (P, n, K, ...) of P parts -> (n, K, ...)."""


def predict_slices(
    model: nn.Module,
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    window_hu: WindowHu,
    options: PredictOptions = _DEFAULTS,
) -> Iterator[SlicePrediction]:
    """Yield one network's prediction for every slice of a case; see :func:`predict_ensemble`.

    Args:
        model: The network.
        slices_hu: (Z + 4, S, S) int16 padded slices, Z >= 1.
        window_hu: Range mapped to [0, 1].
        options: How to run.
    """
    return predict_ensemble([Member(model, window_hu)], slices_hu, options)


def predict_ensemble(
    members: Sequence[Predictor],
    slices_hu: NDArray[np.int16] | SliceSource,
    options: PredictOptions = _DEFAULTS,
) -> Iterator[SlicePrediction]:
    """Yield the mean prediction of networks for every slice of a case, piece by piece, in order.

    Probabilities are averaged, of masks and of presence alike, and returned as logits. One network
    without mirroring returns its logits untouched.

    Args:
        members: On their device: networks that map (1, T + 4, S, S) in [0, 1] to mask logits
            (1, T, K, S, S) and presence logits (1, T, K), volume networks, or fusions.
        slices_hu: (Z + 4, S, S) int16 padded slices, Z >= 1.
        options: How to run.

    Raises:
        ValueError: When the slices are not padded slices, or an option is unknown.
        InputError: When not even one slice fits into the GPU's memory, or the network takes no
            prompts.
    """
    if _all_take_stacks(members):
        return predict_stacks(members, slices_hu, options)
    thresholds = None if options.thresholds is None else options.thresholds.to(options.place)
    whole = replace(options, thresholds=None)
    return _gated(_combined(members, slices_hu, whole), thresholds)


def ensembles_at_once(members: Sequence[Predictor]) -> list[Sequence[Member]]:
    """Return the ensembles whose streams run side by side: what is in memory at once."""
    if _all_take_stacks(members):
        return [members]
    alone = [[m] for m in members if isinstance(m, Member)]
    parts = [part for m in members if isinstance(m, FusedNet) for part in m.parts]
    return [*alone, *(ensemble for part in parts for ensemble in ensembles_at_once(part))]


def _all_take_stacks(members: Sequence[Predictor]) -> TypeGuard[Sequence[Member]]:
    """Return whether the engine can run all of them chunk by chunk."""
    return all(isinstance(m, Member) and not isinstance(m.model, UniversalNet) for m in members)


def _combined(
    members: Sequence[Predictor],
    slices_hu: NDArray[np.int16] | SliceSource,
    options: PredictOptions,
) -> Iterator[SlicePrediction]:
    if len(members) > 1:
        streams = [predict_ensemble([member], slices_hu, options) for member in members]
        return _merged(streams, lambda probability: probability.mean(dim=0))
    member = members[0]
    if isinstance(member, FusedNet):
        streams = [predict_ensemble(part, slices_hu, options) for part in member.parts]
        return _merged(streams, member.combine)
    if options.prompts:
        raise InputError("this model takes no prompts", mend="use a model of the system samcancer")
    assert isinstance(member.model, UniversalNet)
    return _windows(member.model, member.window_hu, slices_hu, options)


def _windows(
    model: UniversalNet,
    window_hu: WindowHu,
    slices_hu: NDArray[np.int16] | SliceSource,
    options: PredictOptions,
) -> Iterator[SlicePrediction]:
    if options.voxel_mm is None:
        raise ValueError("a volume network needs voxel_mm")
    settings = WindowOptions(
        voxel_mm=options.voxel_mm,
        window_hu=window_hu,
        device=options.place,
        stitch_device=torch.device(options.stitch_device or options.place),
        overlap=model.patches.overlap if options.overlap is None else options.overlap,
        autocast=autocast_of(options.place, options.precision),
        batch=options.patches_at_once,
        flip=options.flip,
        other_sides=options.other_sides,
        skip_air=options.skip_air,
    )
    with evaluating([model]):
        yield from predict_windows(model, slices_hu, settings)


def _gated(
    stream: Iterator[SlicePrediction], thresholds: Tensor | None
) -> Iterator[SlicePrediction]:
    for piece in stream:
        if thresholds is None:
            yield piece
        else:
            present = piece.presence >= thresholds
            yield piece._replace(logits=gate_logits(piece.logits, present))


class PartPredictions(NamedTuple):
    """What P parts say about the same n slices."""

    start: int
    masks: Tensor
    """(P, n, K, S, S) probabilities."""
    presence: Tensor
    """(P, n, K) probabilities."""

    @property
    def stop(self) -> int:
        """The slice after the last."""
        return self.start + self.masks.shape[1]

    def combined(self, combine: Combine) -> SlicePrediction:
        """Return what they say together."""
        logits = torch.logit(combine(self.masks), eps=PROBABILITY_FLOOR)
        agreement = (self.masks > _HALF).float().mean(dim=0)
        return SlicePrediction(self.start, logits, combine(self.presence), agreement)


def aligned(streams: Sequence[Iterator[SlicePrediction]]) -> Iterator[PartPredictions]:
    """Yield streams whose pieces are cut differently in pieces of the same slices."""
    for found in zip(*map(_recut, streams), strict=True):
        yield PartPredictions(
            found[0].start,
            torch.stack([torch.sigmoid(piece.logits) for piece in found]),
            torch.stack([piece.presence for piece in found]),
        )


def _merged(
    streams: Sequence[Iterator[SlicePrediction]], combine: Combine
) -> Iterator[SlicePrediction]:
    for parts in aligned(streams):
        yield parts.combined(combine)


def _recut(stream: Iterator[SlicePrediction]) -> Iterator[SlicePrediction]:
    """Yield the same slices in pieces of a fixed length, but for the last."""
    waiting: list[SlicePrediction] = []
    count = 0
    for piece in stream:
        waiting.append(piece)
        count += len(piece.logits)
        while count >= _COMBINED_SLICES:
            whole = joined(waiting)
            yield whole.part(0, _COMBINED_SLICES)
            waiting = [whole.part(_COMBINED_SLICES, count)]
            count -= _COMBINED_SLICES
    if count:
        yield joined(waiting)
