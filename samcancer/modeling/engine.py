"""Run a network over all slices of a case, in chunks, with bounded memory; tensors only, no files.

A chunk of T target slices is read with two neighbours on either side (T + 4 padded slices), so
that whatever does not depend on neighbours runs once a slice, and the T outputs equal those of T
separate 5-slice stacks (true of every network that mixes slices by z-valid convolutions only).
Slice z of a case is slice z + 2 of its padded slices. Never more than one chunk of logits is alive
here: the caller decides what to keep.

Shapes: T slices of the chunk, K classes, S in-plane pixels, Z slices of the case.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT, WindowHu
from samcancer.errors import InputError
from samcancer.modeling.manual_prompts import ManualPrompts, SlicePrompt, collate
from samcancer.windowing import window

_log = logging.getLogger(__name__)

MASK_PROBABILITY = 0.5
"""Probability above which a voxel belongs to a class (logit above 0)."""

ABSENT_LOGIT = -30.0
"""Logit of every voxel of a class that its presence probability rules out (probability 1e-13)."""

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


class SliceSource(Protocol):
    """Padded slices of one case, int16 HU, read a few at a time: an array, or something lazy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z + 4, S, S)."""

    def __getitem__(self, index: slice, /) -> NDArray[np.int16]:
        """Return the padded slices of a contiguous range."""


class SlicePrediction(NamedTuple):
    """What the network says about the slices ``start`` to ``start + n`` of a case."""

    start: int
    logits: Tensor
    """(n, K, S, S) float32 mask logits, not gated by presence."""
    presence: Tensor
    """(n, K) float32 presence probabilities."""


class CaseBits(NamedTuple):
    """Masks of a whole case on the stack grid."""

    bits: NDArray[np.uint32]
    """(Z, S, S) bit field; bit k is class k."""
    presence: NDArray[np.float32]
    """(Z, K) presence probabilities."""


@dataclass(frozen=True)
class Member:
    """One network of an ensemble and the HU window that its input is mapped by."""

    model: nn.Module
    window_hu: WindowHu


def predict_slices(
    model: nn.Module,
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    window_hu: WindowHu,
    batch: int = 8,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    flip: bool = False,
    prompts: Sequence[SlicePrompt] = (),
) -> Iterator[SlicePrediction]:
    """Yield one network's prediction for every slice of a case, chunk by chunk, in order.

    Args:
        model: Maps (1, T + 4, S, S) in [0, 1] to mask logits (1, T, K, S, S) and presence logits
            (1, T, K); already on ``device``.
        slices_hu: (Z + 4, S, S) int16 padded slices, Z >= 1.
        window_hu: Range mapped to [0, 1].
        batch: Slices per chunk (T). On a full GPU it is halved until it fits.
        device: Where the chunks are sent.
        precision: One of Lightning Fabric's names; ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        flip: Also predict on left-right mirrored slices and average the probabilities.
        prompts: What a person said about single slices; where they are sure of a class, its
            presence is 1.

    Raises:
        ValueError: When the slices are not padded slices, or an option is unknown.
        InputError: When not even one slice fits into the GPU's memory.
    """
    return predict_ensemble(
        [Member(model, window_hu)],
        slices_hu,
        batch=batch,
        device=device,
        precision=precision,
        flip=flip,
        prompts=prompts,
    )


def predict_ensemble(
    members: Sequence[Member],
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    flip: bool = False,
    prompts: Sequence[SlicePrompt] = (),
) -> Iterator[SlicePrediction]:
    """Yield the mean prediction of several networks; see :func:`predict_slices`.

    Probabilities are averaged, of masks and of presence alike, and returned as logits. One network
    without mirroring returns its logits untouched.
    """
    slice_count = _checked_slice_count(slices_hu, batch)
    autocast = _autocast(torch.device(device), precision)
    run = _Run(members, slices_hu, torch.device(device), autocast, flip, prompts)
    return _run_chunks(run, slice_count, batch)


def gate_logits(prediction: SlicePrediction, thresholds: Tensor) -> Tensor:
    """Return the logits, with a class that is absent from a slice put to ``ABSENT_LOGIT`` there.

    Args:
        prediction: Of n slices.
        thresholds: (K,) presence probability from which a class counts as present.
    """
    absent = prediction.presence < thresholds.to(prediction.presence.device)
    return prediction.logits.masked_fill(absent[:, :, None, None], ABSENT_LOGIT)


def threshold_vector(thresholds: Mapping[str, float], class_names: Sequence[str]) -> Tensor:
    """Return (K,) presence thresholds in the order of ``class_names``."""
    return torch.tensor([float(thresholds.get(n, UNCALIBRATED_THRESHOLD)) for n in class_names])


def predict_case_bits(
    model: nn.Module,
    slices_hu: NDArray[np.int16] | SliceSource,
    *,
    window_hu: WindowHu,
    thresholds: Tensor,
    batch: int = 8,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    prompts: Sequence[SlicePrompt] = (),
) -> CaseBits:
    """Return the masks of a case on the stack grid, gated by presence, as a bit field.

    Args:
        model: See :func:`predict_slices`, as for the other arguments.
        slices_hu: (Z + 4, S, S) int16 padded slices.
        window_hu: Range mapped to [0, 1].
        thresholds: (K,) presence thresholds; zeros gate nothing.
        batch: Slices per chunk.
        device: Where the chunks are sent.
        precision: Name of the precision.
        prompts: What a person said about single slices.
    """
    slice_count = int(slices_hu.shape[0]) - 2 * SLICE_CONTEXT
    bits = np.zeros((slice_count, *slices_hu.shape[1:]), dtype=np.uint32)
    presence = np.zeros((slice_count, len(thresholds)), dtype=np.float32)
    for chunk in predict_slices(
        model,
        slices_hu,
        window_hu=window_hu,
        batch=batch,
        device=device,
        precision=precision,
        prompts=prompts,
    ):
        stop = chunk.start + len(chunk.logits)
        inside = (gate_logits(chunk, thresholds) > 0).cpu().numpy()
        for k in range(inside.shape[1]):
            bits[chunk.start : stop] |= inside[:, k].astype(np.uint32) << np.uint32(k)
        presence[chunk.start : stop] = chunk.presence.cpu().numpy()
    return CaseBits(bits, presence)


def _checked_slice_count(slices_hu: NDArray[np.int16] | SliceSource, batch: int) -> int:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    shape = tuple(slices_hu.shape)
    if len(shape) != 3 or shape[0] <= 2 * SLICE_CONTEXT:
        raise ValueError(f"padded slices must have the shape (Z + 4, S, S), Z >= 1; got {shape}")
    return int(shape[0]) - 2 * SLICE_CONTEXT


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
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
    device: torch.device
    autocast: contextlib.AbstractContextManager[Any]
    flip: bool
    prompts: Sequence[SlicePrompt]


def _run_chunks(run: _Run, slice_count: int, batch: int) -> Iterator[SlicePrediction]:
    start = 0
    with _evaluating(run.members):
        while start < slice_count:
            stop = min(start + batch, slice_count)
            try:
                with torch.inference_mode(), run.autocast:
                    logits, presence = _mean_prediction(run, start, stop)
            except torch.OutOfMemoryError:
                batch = _halved(stop - start)
                _release_cached_memory()
                continue
            yield SlicePrediction(start, logits, presence)
            start = stop


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


def _mean_prediction(run: _Run, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return (n, K, S, S) logits and (n, K) presence probabilities of the slices start..stop."""
    chunk_hu = run.slices_hu[start : stop + 2 * SLICE_CONTEXT]
    told = _told(run, start, stop)
    mirrored = told and told._replace(manual=told.manual.flipped(chunk_hu.shape[-1]))
    outputs = []
    for member in run.members:
        chunk = torch.from_numpy(window(chunk_hu, member.window_hu))[None].to(run.device)
        outputs.append(_forward(member.model, chunk, told))
        if run.flip:
            logits, presence = _forward(member.model, chunk.flip(-1), mirrored)
            outputs.append((logits.flip(-1), presence))
    if len(outputs) == 1:
        return outputs[0]
    probability = torch.sigmoid(outputs[0][0])
    for logits, _ in outputs[1:]:
        probability += torch.sigmoid(logits)
    probability /= len(outputs)
    presence = torch.stack([presence for _, presence in outputs]).mean(dim=0)
    return torch.logit(probability, eps=_PROBABILITY_FLOOR), presence


class _Told(NamedTuple):
    """What a person says about a chunk."""

    presence: Tensor
    """(1, n, K): 1, or NaN where nothing is said."""
    manual: ManualPrompts


def _told(run: _Run, start: int, stop: int) -> _Told | None:
    """Return what is said about the slices start..stop; the networks share their classes."""
    if not run.prompts:
        return None
    names: Any = run.members[0].model.class_names
    classes, size = len(names), run.slices_hu.shape[-1]
    manual, presence = collate(run.prompts, start=start, stop=stop, classes=classes, size=size)
    if manual is None:
        return None
    return _Told(presence.to(run.device), manual.map(lambda x: x.to(run.device)))


def _forward(model: nn.Module, chunk: Tensor, told: _Told | None) -> tuple[Tensor, Tensor]:
    output = model(chunk) if told is None else model(chunk, *told)
    presence = torch.sigmoid(output.presence_logits[0].float())
    if told is not None:
        presence = torch.where(told.presence[0].isnan(), presence, told.presence[0])
    return output.mask_logits[0].float(), presence


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
