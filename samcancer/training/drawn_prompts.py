"""Prompts as a person would give them, drawn from the reference for training.

A slice and class with a lesion gets, with the configured chance, one of: a box around one or two of
its lesions, each side off by about a tenth of the box (Kirillov et al. 2023, appendix A); one to
three points on them and now and then one beside them; or a rough mask, the reference a few pixels
too large or too small. The target stays every lesion of the class. All numbers of a sample come
from a generator of its own, so that neither a stop nor the number of processes changes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from samcancer.modeling.manual_prompts import (
    BOX_FIRST,
    BOX_SECOND,
    NEGATIVE,
    POSITIVE,
    ManualPrompts,
    SlicePrompt,
    collate,
)
from samcancer.training.losses import Targets

_MOST_LESIONS = 2
_MOST_POINTS = 3

_BOX_NOISE = 0.1
"""Standard deviation of a box's sides, in sides."""

_MOST_BOX_NOISE = 0.2

_MOST_MASK_ERROR = 3
"""Pixels by which a rough mask is too large or too small."""

_KINDS = ("box", "points", "mask")
_KIND_SHARES = (0.5, 0.35, 0.15)

_Points = list[tuple[float, float, int]]


def draw_prompts(
    targets: Targets, *, share: float, rngs: Sequence[np.random.Generator]
) -> ManualPrompts | None:
    """Draw prompts for a batch; None when no slice is given any.

    Args:
        targets: Of the batch.
        share: Chance of a slice and class with a labelled voxel to be prompted.
        rngs: One a sample.
    """
    if share == 0:
        return None
    shown = targets.presence.cpu().numpy() > 0
    drawn = np.stack([rng.random(shown.shape[1:]) < share for rng in rngs]) & shown
    places = np.argwhere(drawn).tolist()
    if not places:
        return None
    batch, slices, classes, size = targets.labels.shape[:4]
    prompts = []
    for b, t, k in places:
        label = targets.labels[b, t, k].cpu().numpy().astype(np.uint8)
        known = targets.known[b, t, k].cpu().numpy() > 0
        prompts.append(_draw(label, known, rngs[b], z=b * slices + t, k=k))
    manual, _ = collate(prompts, start=0, stop=batch * slices, classes=classes, size=size)
    assert manual is not None  # there is at least one place
    device = targets.labels.device
    return manual.map(lambda x: x.view(batch, slices, *x.shape[2:]).to(device))


def _draw(
    label: NDArray[np.uint8],
    known: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    z: int,
    k: int,
) -> SlicePrompt:
    """Draw the prompt of one slice and class from its mask (S, S)."""
    kind = rng.choice(_KINDS, p=_KIND_SHARES)
    if kind == "mask":
        return SlicePrompt(z, k, mask=_rough(label, rng))
    count, components = cv2.connectedComponents(label)
    chosen = 1 + rng.permutation(count - 1)[: rng.integers(1, _MOST_LESIONS + 1)]
    points: _Points = []
    for component in chosen:
        inside = components == component
        points += _box(inside, rng) if kind == "box" else _points(inside, rng)
    if kind == "points" and rng.random() < 0.5:
        points += _point_beside(label > 0, known, rng)
    return SlicePrompt(z, k, tuple(points))


def _box(inside: NDArray[np.bool_], rng: np.random.Generator) -> _Points:
    """Return the corners of a box around the pixels; those of a tight box lie half a pixel out."""
    corners = np.array([np.flatnonzero(inside.any(axis=axis))[[0, -1]] for axis in (0, 1)])
    corners = corners + np.array([-0.5, 0.5])
    sides = corners[:, 1:] - corners[:, :1]
    noise = np.clip(rng.normal(0, _BOX_NOISE, (2, 2)), -_MOST_BOX_NOISE, _MOST_BOX_NOISE)
    (x0, x1), (y0, y1) = corners + noise * sides
    return [(x0, y0, BOX_FIRST), (x1, y1, BOX_SECOND)]


def _points(inside: NDArray[np.bool_], rng: np.random.Generator) -> _Points:
    count = int(rng.integers(1, _MOST_POINTS + 1))
    return [(x, y, POSITIVE) for x, y in _some_pixels(inside, rng, count)]


def _point_beside(
    labelled: NDArray[np.bool_], known: NDArray[np.bool_], rng: np.random.Generator
) -> _Points:
    """Return a point known to lie outside, near the lesions; none where there is no place."""
    reach = cv2.dilate(labelled.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    return [(x, y, NEGATIVE) for x, y in _some_pixels(reach & ~labelled & known, rng, 1)]


def _some_pixels(
    where: NDArray[np.bool_], rng: np.random.Generator, count: int
) -> list[tuple[float, float]]:
    y, x = np.nonzero(where)
    if not len(x):
        return []
    return [(float(x[i]), float(y[i])) for i in rng.integers(0, len(x), count)]


def _rough(label: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return the mask some pixels larger, or smaller where anything of it is left."""
    error = int(rng.integers(1, _MOST_MASK_ERROR + 1))
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * error + 1, 2 * error + 1))
    smaller = cv2.erode(label, ball, borderValue=0)
    rough = smaller if smaller.any() and rng.random() < 0.5 else cv2.dilate(label, ball)
    return np.asarray(rough > 0)
