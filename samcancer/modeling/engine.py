"""Run a network over all slices of a case, in chunks, with bounded memory; tensors only, no files.

A chunk of T target slices is read with two neighbours on either side (T + 4 padded slices), so
that whatever does not depend on neighbours runs once a slice, and the T outputs equal those of T
separate 5-slice stacks (true of every network that mixes slices by z-valid convolutions only).
Slice z of a case is slice z + 2 of its padded slices. Never more than one chunk of logits is alive
here: the caller decides what to keep. The next chunk is read while the network runs.

Presence first: given presence thresholds, a network that can tell presence before it draws outlines
(:class:`PresenceFirst`) draws those of present classes alone. Air: a target slice whose stack of
five holds nothing above the window looks like every other such slice to the network, which is asked
once for all of them.

Shapes: T slices of the chunk, K classes, S in-plane pixels, Z slices of the case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT
from samcancer.modeling.chunks import Chunk, SliceSource, read_chunks
from samcancer.modeling.manual_prompts import ManualPrompts, collate
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import (
    PROBABILITY_FLOOR,
    Member,
    SlicePrediction,
    gate_logits,
    halved_on_full_gpu,
    joined,
)
from samcancer.windowing import window

_T = TypeVar("_T")

_AUTOCAST_TYPES: dict[str, torch.dtype | None] = {
    "32": None,
    "bf16": torch.bfloat16,
    "16": torch.float16,
}
"""First part of Lightning Fabric's precision names -> autocast type; None runs without autocast."""


@runtime_checkable
class PresenceFirst(Protocol):
    """A network that tells which classes are present before it draws their outlines."""

    def look(
        self, chunk: Tensor, presence: Tensor | None = None, manual: ManualPrompts | None = None
    ) -> Any:
        """Return what it has seen, with ``presence_logits`` (1, T, K)."""

    def outline(self, look: Any, wanted: Tensor | None = None) -> Tensor:
        """Return mask logits (1, T, K, S, S), ``ABSENT_LOGIT`` but for ``wanted`` (1, T, K)."""


def predict_stacks(
    members: Sequence[Member],
    slices_hu: NDArray[np.int16] | SliceSource,
    options: PredictOptions,
) -> Iterator[SlicePrediction]:
    """Yield the mean prediction of networks chunk by chunk; see predict.predict_ensemble."""
    _check(slices_hu, options.batch)
    autocast = autocast_of(options.place, options.precision)
    return _run_chunks(_Run(members, slices_hu, options, autocast))


def _check(slices_hu: NDArray[np.int16] | SliceSource, batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    shape = tuple(slices_hu.shape)
    if len(shape) != 3 or shape[0] <= 2 * SLICE_CONTEXT:
        raise ValueError(f"padded slices must have the shape (Z + 4, S, S), Z >= 1; got {shape}")


def autocast_of(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a precision of Lightning Fabric's computes.

    Raises:
        ValueError: When the precision is unknown.
    """
    name = precision.split("-")[0]
    if name not in _AUTOCAST_TYPES:
        raise ValueError(f"precision must be one of {list(_AUTOCAST_TYPES)}, got {precision!r}")
    dtype = _AUTOCAST_TYPES[name]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class _Run:
    """What stays the same over the chunks of a case."""

    members: Sequence[Member]
    slices_hu: NDArray[np.int16] | SliceSource
    options: PredictOptions
    autocast: contextlib.AbstractContextManager[Any]

    @cached_property
    def thresholds(self) -> Tensor | None:
        """The presence thresholds, on the device."""
        given = self.options.thresholds
        return None if given is None else given.to(self.options.place)

    @property
    def other_sides(self) -> Sequence[int] | slice:
        """For each class the one that it is in a mirror."""
        sides = self.options.other_sides
        return slice(None) if sides is None else list(sides)

    @property
    def air_hu(self) -> float:
        """Highest HU that is 0 to every network."""
        return min(member.window_hu[0] for member in self.members)

    @cached_property
    def air(self) -> SlicePrediction:
        """What the networks say about a slice of air."""
        shape = (2 * SLICE_CONTEXT + 1, *self.slices_hu.shape[1:])
        nothing = torch.full(shape, torch.iinfo(torch.int16).min, dtype=torch.int16)
        return _mean_prediction(self, nothing, None)


def _run_chunks(run: _Run) -> Iterator[SlicePrediction]:
    with evaluating([member.model for member in run.members]):
        for piece, said in in_pieces(
            run.slices_hu, partial(_predict, run), batch=run.options.batch, autocast=run.autocast
        ):
            yield said._replace(start=piece.start)


def in_pieces(
    slices_hu: NDArray[np.int16] | SliceSource,
    compute: Callable[[Chunk], _T],
    *,
    batch: int,
    autocast: contextlib.AbstractContextManager[Any],
) -> Iterator[tuple[Chunk, _T]]:
    """Yield the chunks of a case and what is computed of each, in order.

    Args:
        slices_hu: (Z + 4, S, S) padded slices.
        compute: Runs without a gradient.
        batch: Slices per chunk; on a full GPU it is halved until it fits.
        autocast: In which ``compute`` runs.

    Raises:
        InputError: When not even one slice fits into the GPU's memory.
    """
    for chunk in read_chunks(slices_hu, batch=batch):
        done = 0
        while done < chunk.targets:
            piece = chunk.part(done, min(done + batch, chunk.targets))
            try:
                with torch.inference_mode(), autocast:
                    found = compute(piece)
            except torch.OutOfMemoryError:
                batch = halved_on_full_gpu(piece.targets, "slice")
                continue
            yield piece, found
            done += piece.targets


def _predict(run: _Run, chunk: Chunk) -> SlicePrediction:
    """Return what is said about a chunk, counted from its own start; air is looked up."""
    told = _told(run, chunk)
    if told is not None or not run.options.skip_air:
        return _mean_prediction(run, chunk.slices_hu, told)
    first, stop = chunk.body(run.air_hu)
    before, after = first, chunk.targets - stop
    parts = [run.air.repeated(count) for count in (before, after) if count]
    if first < stop:
        body = _mean_prediction(run, chunk.part(first, stop).slices_hu, None)
        parts.insert(min(before, 1), body)
    return joined(parts)


def _mean_prediction(run: _Run, slices_hu: Tensor, told: _Told | None) -> SlicePrediction:
    """Return the mean over networks and views of n slices, read with their neighbours."""
    views = [view for member in run.members for view in _views(run, member, slices_hu, told)]
    presence = torch.stack([view.presence for view in views]).mean(dim=0)
    wanted = None if run.thresholds is None else presence >= run.thresholds
    logits = views[0].outline(wanted)
    if len(views) == 1:
        return SlicePrediction(0, logits, presence)
    probability = torch.sigmoid(logits)
    votes = (logits > 0).float() if len(run.members) > 1 else None
    for view in views[1:]:
        logits = view.outline(wanted)
        probability += torch.sigmoid(logits)
        if votes is not None:
            votes += logits > 0
    probability /= len(views)
    logits = torch.logit(probability, eps=PROBABILITY_FLOOR)
    return SlicePrediction(0, logits, presence, None if votes is None else votes / len(views))


class _View(NamedTuple):
    """What one network has seen in a chunk, before it draws."""

    presence: Tensor
    """(n, K) probabilities."""
    outline: Callable[[Tensor | None], Tensor]
    """Present classes (n, K), None for all -> (n, K, S, S) logits, others ``ABSENT_LOGIT``."""


def _views(run: _Run, member: Member, slices_hu: Tensor, told: _Told | None) -> Iterator[_View]:
    """Look at a chunk as it is and, where asked for, at its mirror image."""
    grey = window(slices_hu.to(run.options.place).float(), member.window_hu)[None]
    yield _looked(member.model, grey, told)
    if run.options.flip:
        sides = run.other_sides
        mirrored = told and told.mirrored(grey.shape[-1], sides)
        view = _looked(member.model, grey.flip(-1), mirrored)
        yield _View(
            view.presence[:, sides],
            lambda wanted: view.outline(None if wanted is None else wanted[:, sides])[
                :, sides
            ].flip(-1),
        )


def _looked(model: nn.Module, chunk: Tensor, told: _Told | None) -> _View:
    given = () if told is None else told
    if isinstance(model, PresenceFirst):
        seen = model.look(chunk, *given)
        outline: Callable[[Tensor | None], Tensor] = partial(model.outline, seen)
    else:
        seen = model(chunk, *given)
        outline = partial(_gated, seen.mask_logits)
    presence = torch.sigmoid(seen.presence_logits[0].float())
    if told is not None:
        presence = torch.where(told.presence[0].isnan(), presence, told.presence[0])
    return _View(
        presence, lambda wanted: outline(None if wanted is None else wanted[None])[0].float()
    )


def _gated(logits: Tensor, wanted: Tensor | None) -> Tensor:
    return logits if wanted is None else gate_logits(logits, wanted)


class _Told(NamedTuple):
    """What a person says about a chunk."""

    presence: Tensor
    """(1, n, K): 1, or NaN where nothing is said."""
    manual: ManualPrompts

    def mirrored(self, size: int, sides: Sequence[int] | slice) -> _Told:
        """Return the same about the left-right mirrored chunk."""
        flipped = self.manual.flipped(size)
        return _Told(self.presence[:, :, sides], flipped.map(lambda x: x[:, :, sides]))


def _told(run: _Run, chunk: Chunk) -> _Told | None:
    """Return what is said about the targets of a chunk; the networks share their classes."""
    if not run.options.prompts:
        return None
    names: Any = run.members[0].model.class_names
    manual, presence = collate(
        run.options.prompts,
        start=chunk.start,
        stop=chunk.stop,
        classes=len(names),
        size=run.slices_hu.shape[-1],
    )
    if manual is None:
        return None
    return _Told(presence.to(run.options.place), manual.map(lambda x: x.to(run.options.place)))


@contextlib.contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put networks into evaluation mode, and back into their own when the block ends."""
    was_training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, was_training, strict=True):
            model.train(training)
