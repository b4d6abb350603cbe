"""Every slice as a small picture for the viewer, within a number of bytes.

Slices are companded (samcancer.report.scan.companding) and packed as lossy WebP at the best quality
that fits; only where even the lowest does not, are they halved in plane. Masks are packed as PNG,
without loss and at full resolution.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from samcancer.report.scan.companding import to_levels

_QUALITIES = (95, 90, 85, 78, 70, 60, 45, 30)
"""WebP qualities, best first."""

_EFFORT = 2
"""WebP method: 4 takes three times as long and saves no bytes on noise."""

_SAMPLES = 7
"""Slices that are packed to foresee the size of all."""

_MARGIN = 1.04
"""Factor on the foreseen size; the slices between the samples may be the busier ones."""

_LEAST_SIDE = 128
"""Slices are not halved below this many rows or columns."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Pictures of all slices."""

    pictures: tuple[str, ...]
    """WebP in base64, from the feet to the head."""
    quality: int
    reduction: int
    """Voxels of the scan along one side of a picture's pixel: 1, 2 or 4."""


def pack_slices(hu: npt.NDArray[np.int16], *, budget_bytes: int) -> Frames:
    """Return the slices as pictures that take at most ``budget_bytes`` as base64.

    Args:
        hu: (slices, rows, columns).
        budget_bytes: Aimed at; exceeded only where the lowest quality of the smallest pictures
            takes more.
    """
    reduction = 1
    while True:
        smaller_fits = min(hu.shape[1:]) // (2 * reduction) >= _LEAST_SIDE
        for quality in _QUALITIES:
            last = quality == _QUALITIES[-1] and not smaller_fits
            if not last and _foreseen_bytes(hu, quality, reduction) > budget_bytes:
                continue
            pictures = tuple(_base64(_webp(levels, quality)) for levels in _reduced(hu, reduction))
            if last or sum(map(len, pictures)) <= budget_bytes:
                return Frames(pictures=pictures, quality=quality, reduction=reduction)
        reduction *= 2


def pack_masks(labels: npt.NDArray[np.generic]) -> dict[int, str]:
    """Return slice -> PNG in base64 of its labels, for slices that hold any."""
    packed = {}
    for z in np.flatnonzero(labels.any(axis=(1, 2))).tolist():
        buffer = io.BytesIO()
        Image.fromarray(labels[z].astype(np.uint8)).save(buffer, format="PNG", optimize=True)
        packed[z] = _base64(buffer.getvalue())
    return packed


def _foreseen_bytes(hu: npt.NDArray[np.int16], quality: int, reduction: int) -> float:
    places = np.unique(np.linspace(0, len(hu) - 1, _SAMPLES).round().astype(int))
    sizes = [len(_webp(levels, quality)) for levels in _reduced(hu[places], reduction)]
    return sum(sizes) / len(sizes) * len(hu) * 4 / 3 * _MARGIN


def _reduced(hu: npt.NDArray[np.int16], reduction: int) -> Iterable[npt.NDArray[np.uint8]]:
    """Yield the companded slices, each pixel the mean of ``reduction`` x ``reduction`` voxels."""
    for plane in hu:
        levels = to_levels(np.ascontiguousarray(plane))
        if reduction == 1:
            yield levels
        else:
            image = Image.fromarray(levels)
            yield np.asarray(image.reduce(reduction), dtype=np.uint8)


def _webp(levels: npt.NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="WEBP", quality=quality, method=_EFFORT)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
