"""Points, boxes and masks that a person gives, per slice and class, as SAM takes them.

    points (B, T, K, P, 2), kinds (B, T, K, P) -> tokens of a slice and class (p, E), p <= P
    masks (B, T, K, S, S) -> dense embedding (E, h, w) of a slice and class
    all of them -> maps of a slice and class (M, S, S); read pixels (w, S, S) -> change of logits

They join the class prompts of their class: the class says what is sought, they say where. A slice
and class without any runs exactly as in a network that was given none, so that a prompt changes
nothing but what it is meant for. Tokens and embedding are SAM's (Kirillov et al. 2023, section 3
and appendix A). The maps are ours: SAM learned to heed a box from a billion masks, a few hundred CT
scans do not teach it (docs/model.md); inside a box another kernel reads the CNN's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NEGATIVE, POSITIVE, BOX_FIRST, BOX_SECOND = range(4)
"""What a point is: SAM's own numbers, the last two being the corners of a box."""

NO_POINT = -1
"""Fills up the points of a slice and class to P."""

_MAP_LOGITS = (-2.0, 3.0, 2.0, -4.0, 3.0)
"""What the maps add at first: everywhere, in boxes, near points on and off the lesion, in masks."""

_BOX_MAP, _MASK_MAP = 1, 4

_OWN_SHARE = 1.0
"""Weight, at first, of the network's own logits in a box or mask. They count by their differences
from their mean in there: a lesion that was missed has logits far below 0 and may stand out all the
same, and most of a box is lesion."""

_POINT_REACH = 32.0
"""A point reaches as far as this part of a slice (standard deviation)."""

MASK_LOGIT = 10.0
"""Logit of a prompt mask's own pixels, and negative of all others."""


class ManualPrompts(NamedTuple):
    """The prompts of B chunks of T slices and K classes."""

    points: Tensor
    """(B, T, K, P, 2) positions (x, y) in pixels of the stack, pixel centres at whole numbers."""
    kinds: Tensor
    """(B, T, K, P) int64; ``NO_POINT`` behind the last point."""
    masks: Tensor | None = None
    """(B, T, K, S, S) logits, NaN in a slice and class without a mask; None without any."""

    def given(self) -> Tensor:
        """Return where anything is given, (B, T, K) or (N, K)."""
        points = (self.kinds != NO_POINT).any(dim=-1)
        return points if self.masks is None else points | ~self.masks[..., 0, 0].isnan()

    def by_slice(self) -> ManualPrompts:
        """Return them as the network works, slice by slice: (T * B, K, ...)."""
        return self.map(lambda x: x.transpose(0, 1).flatten(0, 1))

    def flipped(self, size: int) -> ManualPrompts:
        """Return them for slices that are mirrored left to right."""
        x = size - 1 - self.points[..., 0]
        # the left corner of a box comes first, also in the mirror
        x = torch.where(self.kinds == BOX_FIRST, x.roll(-1, -1), x).where(
            self.kinds != BOX_SECOND, x.roll(1, -1)
        )
        mirrored = torch.stack([x, self.points[..., 1]], dim=-1)
        masks = None if self.masks is None else self.masks.flip(-1)
        return ManualPrompts(mirrored, self.kinds, masks)

    def map(self, change: Callable[[Tensor], Tensor]) -> ManualPrompts:
        """Return them with every tensor changed alike."""
        masks = None if self.masks is None else change(self.masks)
        return ManualPrompts(change(self.points), change(self.kinds), masks)


class PromptMaps(nn.Module):
    """Change the logits where a prompt points to."""

    def __init__(self, pixel_width: int) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.zeros(len(_MAP_LOGITS), pixel_width))
        self.biases = nn.Parameter(torch.tensor(_MAP_LOGITS))
        self.own_share = nn.Parameter(torch.tensor(_OWN_SHARE))

    def forward(self, masks: Tensor, pixels: Tensor, manual: ManualPrompts | None) -> Tensor:
        """Return the logits (N, K, S, S) with those of prompted slices and classes changed.

        A step without prompts gives the parameters a gradient of zero: processes that train
        together wait for one of every parameter.

        Args:
            masks: Logits (N, K, S, S).
            pixels: (N, w, S, S).
            manual: Slice by slice, (N, K, ...).
        """
        if manual is None:
            untouched = 0.0 * (self.kernels.sum() + self.biases.sum() + self.own_share)
            return masks + untouched if torch.is_grad_enabled() else masks
        n, k = manual.given().nonzero(as_tuple=True)
        read = torch.einsum("nchw,mc->nmhw", pixels, self.kernels)[n]
        maps = _maps(manual.points[n, k], manual.kinds[n, k], size=masks.shape[-1])
        if manual.masks is not None:
            maps[:, _MASK_MAP] = (manual.masks[n, k] > 0).to(maps)
        change = (maps * (read + self.biases[:, None, None])).sum(dim=1)
        inside = torch.maximum(maps[:, _BOX_MAP], maps[:, _MASK_MAP])
        own = masks[n, k]
        mean = (inside * own).sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)
        change = change + inside * (self.own_share * (own - mean[:, None, None]) - own)
        return masks.index_put((n, k), change.to(masks.dtype), accumulate=True)


def _maps(points: Tensor, kinds: Tensor, *, size: int) -> Tensor:
    """Draw points (G, P, 2) of kinds (G, P): (G, M, S, S) in 0..1.

    A box holds every pixel that it touches, so that the smallest one holds one.
    """
    place = torch.arange(size, device=points.device, dtype=points.dtype)
    x, y = points[..., 0, None], points[..., 1, None]
    near_x = torch.exp(-0.5 * ((place - x) * _POINT_REACH / size).square())
    near_y = torch.exp(-0.5 * ((place - y) * _POINT_REACH / size).square())
    blobs = near_y[..., :, None] * near_x[..., None, :]
    in_x = (place + 0.5 > x[:, :-1]) & (place - 0.5 < x[:, 1:])
    in_y = (place + 0.5 > y[:, :-1]) & (place - 0.5 < y[:, 1:])
    boxes = (kinds[:, :-1] == BOX_FIRST)[..., None, None] & in_y[..., :, None] & in_x[..., None, :]
    maps = torch.ones(len(points), len(_MAP_LOGITS), size, size, device=points.device)
    maps[:, _BOX_MAP] = boxes.any(dim=1)
    for index, kind in ((2, POSITIVE), (3, NEGATIVE)):
        maps[:, index] = (blobs * (kinds == kind)[..., None, None]).sum(dim=1).clamp(max=1)
    maps[:, _MASK_MAP] = 0
    return maps


@dataclass(frozen=True)
class SlicePrompt:
    """What a person says about one class in one slice of a case."""

    z: int
    class_index: int
    points: tuple[tuple[float, float, int], ...] = ()
    """(x, y, kind) in pixels of the stack; the two corners of a box follow each other."""
    mask: NDArray[np.bool_] | None = None
    """(S, S)."""
    shows_class: bool = True
    """Whether the slice holds the class for certain; otherwise the network decides."""


def collate(
    prompts: Iterable[SlicePrompt], *, start: int, stop: int, classes: int, size: int
) -> tuple[ManualPrompts | None, Tensor]:
    """Return the prompts of the slices start..stop as one chunk (B = 1), None without any.

    Also returned is the presence that they tell, (1, T, K): 1, or NaN where they tell nothing.
    """
    chunk = [p for p in prompts if start <= p.z < stop]
    presence = torch.full((1, stop - start, classes), torch.nan)
    if not chunk:
        return None, presence
    at: dict[tuple[int, int], list[tuple[float, float, int]]] = {}
    masks = None
    for prompt in chunk:
        place = (prompt.z - start, prompt.class_index)
        at.setdefault(place, []).extend(prompt.points)
        if prompt.shows_class:
            presence[0][place] = 1.0
        if prompt.mask is not None:
            if masks is None:
                masks = torch.full((1, stop - start, classes, size, size), torch.nan)
            inside = torch.from_numpy(prompt.mask)
            held = masks[0][place].nan_to_num(-MASK_LOGIT)
            masks[0][place] = torch.where(inside, MASK_LOGIT, held)
    most = max(map(len, at.values()))
    points = torch.zeros(1, stop - start, classes, most, 2)
    kinds = torch.full((1, stop - start, classes, most), NO_POINT)
    for place, given in at.items():
        for i, (x, y, kind) in enumerate(given):
            points[0][place][i] = torch.tensor([x, y])
            kinds[0][place][i] = kind
    return ManualPrompts(points, kinds, masks), presence
