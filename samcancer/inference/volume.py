"""From a scan in memory to label maps in memory, chunk by chunk.

Logits, not masks, go back to the scan's own pixels: linear interpolation in plane, then a voxel
belongs to a class when its probability is above 0.5, or above what was calibrated for the class.
Two label maps are filled, one of lesions and one of organs, since a lesion lies inside its organ;
between lesions, or between organs, the higher probability wins, and at a tie the class that comes
first in the model. Memory is the scan, one or two uint8 maps and one chunk; never classes x volume
floats.

Arrays are (slice, row, column) in canonical orientation; label k + 1 is class k of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcancer.inference.budget import PATCHES_AT_ONCE, MemoryNeed, memory_need, plan_batch
from samcancer.inference.slices import ResizedSlices
from samcancer.inplane import InPlaneGrid
from samcancer.modeling.fusion import Predictor
from samcancer.modeling.manual_prompts import SlicePrompt
from samcancer.modeling.predict import predict_ensemble
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import SlicePrediction

_log = logging.getLogger(__name__)

_HALF = 0.0
"""Logit of the probability 0.5, above which a network by itself marks a voxel."""

_NO_CLASS = -torch.inf
"""Logit that every class's exceeds."""

_LEAST_WEIGHT = 1e-6
"""Of marked pixels in an interpolation; keeps a division finite."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the network is run."""

    device: str = "cpu"
    batch: int | None = None
    """Slices per chunk, or a volume network's patches at once; None chooses."""
    budget_bytes: int | None = None
    """Memory that the choice has to do with; None is no limit."""
    precision: str = "32-true"
    flip: bool = False
    """Test-time augmentation: also predict the left-right mirrored scan and average."""
    skip_air: bool = True
    """Run the network once for all slices of air; the masks are the same."""
    overlap: float | None = None
    """Of a volume network's patches; None takes the network's own."""
    stitch_device: str | None = None
    """Where a volume network's patches are added up; None is ``device``."""


class SliceCertainty(NamedTuple):
    """How sure the networks are of the lesion voxels of a slice, within a box around them."""

    rows: slice
    columns: slice
    probability: NDArray[np.uint8]
    """Of the class that the voxel was given; 255 is a probability of 1."""
    agreement: NDArray[np.uint8] | None
    """Share of the networks that mark the class; 255 is all. None of a network that is alone."""


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """Where the result goes: (Z, rows, columns) uint8 arrays of zeros, filled in place."""

    lesions: NDArray[np.uint8]
    organs: NDArray[np.uint8] | None = None
    """None when the model has no organ class."""
    probabilities: Sequence[NDArray[np.float16]] = ()
    """One (Z, rows, columns) array per class, before gating by presence; empty when not wanted."""
    certainty: dict[int, SliceCertainty] = field(default_factory=dict)
    """Slice that holds a lesion -> how sure its voxels are; filled in place."""


def predict_volume(
    members: Sequence[Predictor],
    volume_hu: NDArray[np.int16],
    *,
    grid: InPlaneGrid,
    slice_mm: float,
    is_lesion: Sequence[bool],
    thresholds: Tensor,
    mask_thresholds: Tensor | None = None,
    maps: LabelMaps,
    options: EngineOptions,
    prompts: Sequence[SlicePrompt] = (),
    other_sides: Sequence[int] | None = None,
    kept: range | None = None,
    on_slices: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Fill the label maps of one scan and return (Z, K) presence probabilities.

    A class whose presence probability in a slice is under its threshold has no voxel there. Slices
    that are not kept have no voxel and a presence of 0. A network that looks at five slices sees
    the true neighbours of the kept ones; a volume network sees nothing but these.

    Args:
        members: The networks and fusions, on the device already.
        volume_hu: (Z, rows, columns) in canonical orientation.
        grid: Its in-plane grid at the networks' size.
        slice_mm: Distance of its slices.
        is_lesion: For each class, whether it is a lesion (else an organ).
        thresholds: (K,) presence thresholds.
        mask_thresholds: (K,) logits above which a voxel is marked; None is probability 0.5 for all.
        maps: Arrays that receive the result.
        options: How to run.
        prompts: What a person said about single slices, all of them kept.
        other_sides: For each class the one that it is in a mirror; None when no class has a side.
        kept: Slices to segment; None segments all.
        on_slices: Called with the number of slices done, or left out, since the last call.
    """
    presence = np.zeros((len(volume_hu), len(is_lesion)), dtype=np.float32)
    device = torch.device(options.device)
    on_device = options.device if device.type == "cuda" else None
    voxel_mm = (slice_mm, grid.pixel_mm, grid.pixel_mm)
    need = partial(
        memory_need,
        members,
        volume_hu.shape,
        size=grid.size,
        class_count=len(is_lesion),
        label_maps=1 if maps.organs is None else 2,
        views=2 if options.flip else 1,
        device=device.type,
        voxel_mm=voxel_mm,
    )
    batch, patches = _plan(need, options, device=device.type)
    row, column = (torch.from_numpy(m.copy()).to(device) for m in grid.logit_matrices())
    lesion_classes = [k for k, lesion in enumerate(is_lesion) if lesion]
    organ_classes = [k for k, lesion in enumerate(is_lesion) if not lesion]
    thresholds = thresholds.to(device)
    lowest = [_HALF] * len(is_lesion) if mask_thresholds is None else mask_thresholds.tolist()
    kept = range(len(volume_hu)) if kept is None else kept
    if len(kept) < len(volume_hu):
        on_slices(len(volume_hu) - len(kept))
    for chunk in predict_ensemble(
        members,
        ResizedSlices(volume_hu, grid, on_device=on_device, kept=kept),
        PredictOptions(
            batch=batch,
            device=device,
            precision=options.precision,
            flip=options.flip,
            other_sides=other_sides,
            skip_air=options.skip_air,
            thresholds=None if maps.probabilities else thresholds,
            prompts=[replace(prompt, z=prompt.z - kept.start) for prompt in prompts],
            voxel_mm=voxel_mm,
            patches_at_once=patches,
            overlap=options.overlap,
            stitch_device=options.stitch_device,
        ),
    ):
        first = kept.start + chunk.start
        span = slice(first, first + len(chunk.logits))
        present = chunk.presence >= thresholds
        lesions = _winners(chunk, present, lesion_classes, row, column, lowest)
        maps.lesions[span] = lesions.labels.cpu().numpy()
        _note_certainty(maps, lesions, first)
        if maps.organs is not None:
            organs = _winners(
                chunk._replace(agreement=None), present, organ_classes, row, column, lowest
            )
            maps.organs[span] = organs.labels.cpu().numpy()
        _write_probabilities(maps.probabilities, chunk, span, row, column)
        presence[span] = chunk.presence.cpu().numpy()
        on_slices(len(chunk.logits))
    return presence


def _plan(
    need: Callable[..., MemoryNeed], options: EngineOptions, *, device: str
) -> tuple[int, int]:
    """Return slices per chunk and patches at once, as asked for or within the budget."""
    patches = options.batch or PATCHES_AT_ONCE[device]
    budget_bytes = options.budget_bytes
    while budget_bytes is not None and patches > 1:
        if need(patches_at_once=patches).of(1) <= budget_bytes:
            break
        patches //= 2
    needed = need(patches_at_once=patches)
    batch = options.batch or plan_batch(needed, budget_bytes=budget_bytes, device=device)
    _log.info("%d slices a chunk, about %.0f MB", batch, needed.of(batch) / 1e6)
    return batch, patches


class _Winners(NamedTuple):
    """The most probable class of every voxel, each (n, rows, columns)."""

    labels: Tensor
    """uint8: k + 1 for class k, 0 for none."""
    logits: Tensor | None
    """Of the class; None where no slice holds any."""
    agreement: Tensor | None
    """Share of the networks that mark the class; None where that is not known."""


def _winners(
    chunk: SlicePrediction,
    present: Tensor,
    classes: Sequence[int],
    row: Tensor,
    column: Tensor,
    lowest: Sequence[float],
) -> _Winners:
    """Return the most probable of ``classes`` above its lowest logit of every voxel.

    Classes that are not present (n, K) in a slice have no voxel there.
    """
    logits = chunk.logits
    shape = (len(logits), len(row), len(column))
    labels = torch.zeros(shape, dtype=torch.uint8, device=logits.device)
    best: Tensor | None = None
    agreement: Tensor | None = None
    for k in classes:
        # Interpolation never exceeds the largest logit: slices without one high enough are done.
        slices = present[:, k].nonzero().flatten()
        slices = slices[logits[slices, k].amax(dim=(1, 2)) > lowest[k]]
        if len(slices) == 0:
            continue
        if best is None:
            best = torch.full(shape, _NO_CLASS, device=logits.device)
            agreement = None if chunk.agreement is None else torch.zeros_like(best)
        upsampled = _upsampled(logits[slices, k], row, column)
        wins = upsampled > best[slices].clamp(min=lowest[k])
        best[slices] = torch.where(wins, upsampled, best[slices])
        labels[slices] = labels[slices].masked_fill(wins, k + 1)
        if agreement is not None and chunk.agreement is not None:
            share = _upsampled_share(chunk.agreement[slices, k], logits[slices, k], row, column)
            agreement[slices] = torch.where(wins, share, agreement[slices])
    return _Winners(labels, best, agreement)


def _note_certainty(maps: LabelMaps, found: _Winners, first: int) -> None:
    """Keep how sure the lesions of consecutive slices are, of each slice the box that holds any."""
    if found.logits is None:
        return
    for n, marked in enumerate(found.labels > 0):
        in_row, in_column = (marked.any(dim=d).nonzero().flatten().tolist() for d in (1, 0))
        if not in_row:
            continue
        rows, columns = slice(in_row[0], in_row[-1] + 1), slice(in_column[0], in_column[-1] + 1)
        agreement = None
        if found.agreement is not None:
            agreement = _in_255ths(found.agreement[n, rows, columns])
        probability = _in_255ths(torch.sigmoid(found.logits[n, rows, columns]))
        maps.certainty[first + n] = SliceCertainty(rows, columns, probability, agreement)


def _in_255ths(share: Tensor) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = (share * 255).round().clamp(0, 255).byte().cpu().numpy()
    return scaled


def _write_probabilities(
    arrays: Sequence[NDArray[np.float16]],
    chunk: SlicePrediction,
    span: slice,
    row: Tensor,
    column: Tensor,
) -> None:
    for k, array in enumerate(arrays):
        upsampled = _upsampled(chunk.logits[:, k], row, column)
        array[span] = torch.sigmoid(upsampled).half().cpu().numpy()


def _upsampled_share(agreement: Tensor, logits: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Interpolate an agreement (n, S, S) among the pixels that together are marked.

    Beside the outline it would else be mixed with that of pixels outside, and networks that say the
    same would seem to differ there.
    """
    marked = _upsampled((logits > _HALF).float(), row, column)
    share: Tensor = _upsampled(agreement, row, column) / marked.clamp_min(_LEAST_WEIGHT)
    return share.clamp_max(1.0)


def _upsampled(logits: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Interpolate (n, S, S) to (n, rows, columns)."""
    return row @ logits @ column.T
