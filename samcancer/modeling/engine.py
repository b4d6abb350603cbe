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
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT, WindowHu
from samcancer.errors import InputError
from samcancer.modeling.chunks import Chunk, SliceSource, read_chunks
from samcancer.modeling.layers import ABSENT_LOGIT
from samcancer.modeling.manual_prompts import ManualPrompts, SlicePrompt, collate
from samcancer.windowing import window

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)

MASK_PROBABILITY = 0.5
"""Probability above which a voxel belongs to a class (logit above 0)."""

UNCALIBRATED_THRESHOLD = 0.5
"""Presence threshold of a class for which none was calibrated."""

_AUTOCAST_TYPES: dict[str, torch.dtype | None] = {
    "32": None,
    "bf16": torch.bfloat16,
    "16": torch.float16,
}
"""First part of Lightning Fabric's precision names -> autocast type; None runs without autocast."""

_PROBABILITY_FLOOR = 1e-7
"""Averaged probabilities are kept this far from 0 and 1, so that their logits are finite."""


class SlicePrediction(NamedTuple):
    """What the network says about the slices ``start`` to ``start + n`` of a case."""

    start: int
    logits: Tensor
    """(n, K, S, S) float32 mask logits; gated by presence where thresholds were given."""
    presence: Tensor
    """(n, K) float32 presence probabilities."""


@runtime_checkable
class PresenceFirst(Protocol):
    """A network that tells which classes are present before it draws their outlines."""

    def look(
        self, chunk: Tensor, presence: Tensor | None = None, manual: ManualPrompts | None = None
    ) -> Any:
        """Return what it has seen, with ``presence_logits`` (1, T, K)."""

    def outline(self, look: Any, wanted: Tensor | None = None) -> Tensor:
        """Return mask logits (1, T, K, S, S), ``ABSENT_LOGIT`` but for ``wanted`` (1, T, K)."""


@dataclass(frozen=True)
class Member:
    """One network of an ensemble and the HU window that its input is mapped by."""

    model: nn.Module
    window_hu: WindowHu


class PredictOptions(TypedDict, total=False):
    """Options of :func:`predict_ensemble`."""

    batch: int
    device: torch.device | str
    precision: str
    flip: bool
    skip_air: bool
    thresholds: Tensor | None
    prompts: Sequence[SlicePrompt]


def predict_slices(
    model: nn.Module,
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    window_hu: WindowHu,
    **options: Unpack[PredictOptions],
) -> Iterator[SlicePrediction]:
    """Yield one network's prediction for every slice of a case; see :func:`predict_ensemble`.

    Args:
        model: The network.
        slices_hu: (Z + 4, S, S) int16 padded slices, Z >= 1.
        window_hu: Range mapped to [0, 1].
        options: Of :func:`predict_ensemble`.
    """
    return predict_ensemble([Member(model, window_hu)], slices_hu, **options)


def predict_ensemble(
    members: Sequence[Member],
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    flip: bool = False,
    skip_air: bool = True,
    thresholds: Tensor | None = None,
    prompts: Sequence[SlicePrompt] = (),
) -> Iterator[SlicePrediction]:
    """Yield the mean prediction of networks for every slice of a case, chunk by chunk, in order.

    Probabilities are averaged, of masks and of presence alike, and returned as logits. One network
    without mirroring returns its logits untouched.

    Args:
        members: Networks, on ``device`` already, that map (1, T + 4, S, S) in [0, 1] to mask logits
            (1, T, K, S, S) and presence logits (1, T, K).
        slices_hu: (Z + 4, S, S) int16 padded slices, Z >= 1.
        batch: Slices per chunk (T). On a full GPU it is halved until it fits.
        device: Where the chunks are sent.
        precision: One of Lightning Fabric's names; ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        flip: Also predict on left-right mirrored slices and average the probabilities.
        skip_air: Ask the networks once for all slices of air; prompted slices never count as air.
        thresholds: (K,) presence probability from which a class counts as present in a slice; the
            logits of others are ``ABSENT_LOGIT`` there. None leaves all logits as they are.
        prompts: What a person said about single slices; where they are sure of a class, its
            presence is 1.

    Raises:
        ValueError: When the slices are not padded slices, or an option is unknown.
        InputError: When not even one slice fits into the GPU's memory.
    """
    _check(slices_hu, batch)
    place = torch.device(device)
    run = _Run(
        members=members,
        slices_hu=slices_hu,
        device=place,
        autocast=_autocast(place, precision),
        flip=flip,
        skip_air=skip_air,
        thresholds=None if thresholds is None else thresholds.to(place),
        prompts=prompts,
    )
    return _run_chunks(run, batch)


def gate_logits(logits: Tensor, present: Tensor) -> Tensor:
    """Return the logits (..., K, S, S) with ``ABSENT_LOGIT`` where ``present`` (..., K) is not."""
    return logits.masked_fill(~present[..., None, None], ABSENT_LOGIT)


def threshold_vector(thresholds: Mapping[str, float], class_names: Sequence[str]) -> Tensor:
    """Return (K,) presence thresholds in the order of ``class_names``."""
    return torch.tensor([float(thresholds.get(n, UNCALIBRATED_THRESHOLD)) for n in class_names])


def _check(slices_hu: NDArray[np.int16] | SliceSource, batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    shape = tuple(slices_hu.shape)
    if len(shape) != 3 or shape[0] <= 2 * SLICE_CONTEXT:
        raise ValueError(f"padded slices must have the shape (Z + 4, S, S), Z >= 1; got {shape}")


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    name = precision.split("-")[0]
    if name not in _AUTOCAST_TYPES:
        raise ValueError(f"precision must be one of {list(_AUTOCAST_TYPES)}, got {precision!r}")
    dtype = _AUTOCAST_TYPES[name]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays the same over the chunks of a case."""

    members: Sequence[Member]
    slices_hu: NDArray[np.int16] | SliceSource
    device: torch.device
    autocast: contextlib.AbstractContextManager[Any]
    flip: bool
    skip_air: bool
    thresholds: Tensor | None
    prompts: Sequence[SlicePrompt]

    @property
    def air_hu(self) -> float:
        """Highest HU that is 0 to every network."""
        return min(member.window_hu[0] for member in self.members)

    @cached_property
    def air(self) -> tuple[Tensor, Tensor]:
        """What the networks say about a slice of air: (1, K, S, S) and (1, K)."""
        shape = (2 * SLICE_CONTEXT + 1, *self.slices_hu.shape[1:])
        nothing = torch.full(shape, torch.iinfo(torch.int16).min, dtype=torch.int16)
        return _mean_prediction(self, nothing, None)


def _run_chunks(run: _Run, batch: int) -> Iterator[SlicePrediction]:
    with _evaluating(run.members):
        for chunk in read_chunks(run.slices_hu, batch=batch):
            done = 0
            while done < chunk.targets:
                piece = chunk.part(done, min(done + batch, chunk.targets))
                try:
                    with torch.inference_mode(), run.autocast:
                        logits, presence = _predict(run, piece)
                except torch.OutOfMemoryError:
                    batch = _halved(piece.targets)
                    _release_cached_memory()
                    continue
                yield SlicePrediction(piece.start, logits, presence)
                done += piece.targets


def _halved(batch: int) -> int:
    if batch == 1:
        raise InputError(
            "the GPU has too little memory for a single slice", mend="use --device cpu"
        ) from None
    _log.warning("GPU out of memory with %d slices a chunk; going on with %d", batch, batch // 2)
    return batch // 2


def _release_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _predict(run: _Run, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return (n, K, S, S) logits and (n, K) presence probabilities; air is looked up."""
    told = _told(run, chunk)
    if told is not None or not run.skip_air:
        return _mean_prediction(run, chunk.slices_hu, told)
    first, stop = chunk.body(run.air_hu)
    before, after = first, chunk.targets - stop
    parts = [[x.expand(count, *x.shape[1:]) for x in run.air] for count in (before, after) if count]
    if first < stop:
        body = _mean_prediction(run, chunk.part(first, stop).slices_hu, None)
        parts.insert(min(before, 1), list(body))
    logits, presence = (x[0] if len(x) == 1 else torch.cat(x) for x in zip(*parts, strict=True))
    return logits, presence


def _mean_prediction(run: _Run, slices_hu: Tensor, told: _Told | None) -> tuple[Tensor, Tensor]:
    """Return the mean over networks and views of n slices, read with their neighbours."""
    views = [view for member in run.members for view in _views(run, member, slices_hu, told)]
    presence = torch.stack([view.presence for view in views]).mean(dim=0)
    wanted = None if run.thresholds is None else presence >= run.thresholds
    if len(views) == 1:
        return views[0].outline(wanted), presence
    probability = torch.sigmoid(views[0].outline(wanted))
    for view in views[1:]:
        probability += torch.sigmoid(view.outline(wanted))
    probability /= len(views)
    return torch.logit(probability, eps=_PROBABILITY_FLOOR), presence


class _View(NamedTuple):
    """What one network has seen in a chunk, before it draws."""

    presence: Tensor
    """(n, K) probabilities."""
    outline: Callable[[Tensor | None], Tensor]
    """Present classes (n, K), None for all -> (n, K, S, S) logits, others ``ABSENT_LOGIT``."""


def _views(run: _Run, member: Member, slices_hu: Tensor, told: _Told | None) -> Iterator[_View]:
    """Look at a chunk as it is and, where asked for, at its mirror image."""
    grey = window(slices_hu.to(run.device).float(), member.window_hu)[None]
    yield _looked(member.model, grey, told)
    if run.flip:
        mirrored = told and told._replace(manual=told.manual.flipped(grey.shape[-1]))
        view = _looked(member.model, grey.flip(-1), mirrored)
        yield _View(view.presence, lambda wanted: view.outline(wanted).flip(-1))


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


def _told(run: _Run, chunk: Chunk) -> _Told | None:
    """Return what is said about the targets of a chunk; the networks share their classes."""
    if not run.prompts:
        return None
    names: Any = run.members[0].model.class_names
    manual, presence = collate(
        run.prompts,
        start=chunk.start,
        stop=chunk.stop,
        classes=len(names),
        size=run.slices_hu.shape[-1],
    )
    if manual is None:
        return None
    return _Told(presence.to(run.device), manual.map(lambda x: x.to(run.device)))


@contextlib.contextmanager
def _evaluating(members: Sequence[Member]) -> Iterator[None]:
    """Put the networks into evaluation mode, and back into their own when the block ends."""
    was_training = [member.model.training for member in members]
    for member in members:
        member.model.eval()
    try:
        yield
    finally:
        for member, training in zip(members, was_training, strict=True):
            member.model.train(training)
