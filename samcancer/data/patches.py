"""Blocks of a resampled volume as training samples, cut out of the store's slices on the fly.

The store keeps slices resized in plane and as far apart as the scan's own; a patch is resampled
from the few of them that it covers, so that every network trains on the same store. Grey values are
interpolated, labels take the nearest voxel. Voxels outside the volume are air, and unknown.

A patch is placed by its sample's key: about a labelled voxel of the key's slice, classes drawn
evenly, or anywhere in the slice when it shows none ([UM] section 4: patches with a lesion and
patches without in turn).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer.config import SLICE_CONTEXT, UniversalConfig
from samcancer.data.case_store import CaseStore
from samcancer.data.dataset import Draw, LabelledDataset, RawSample
from samcancer.data.ledger import Ledger
from samcancer.data.sampling import SampleKey
from samcancer.inplane import AIR_HU
from samcancer.resampling import Axis, FloatArray, volume_grid

_OFF_CENTRE = 0.25
"""Largest distance of the drawn voxel from the patch's centre, in patches along each axis."""


class PatchDataset(LabelledDataset):
    """Maps a :class:`SampleKey` to a patch (slices, rows, columns) about a voxel of its slice."""

    def __init__(
        self, store: CaseStore, ledger: Ledger, *, patches: UniversalConfig, **parts: Any
    ) -> None:
        """Bind the parts; see :class:`LabelledDataset`.

        Args:
            store: Where slices come from.
            ledger: Where labels come from.
            patches: Size and spacing.
            parts: Of :class:`LabelledDataset`.
        """
        super().__init__(store, ledger, **parts)
        self._patches = patches

    def _read(self, key: SampleKey, draw: Draw) -> RawSample:
        case = self._store.cases[key.case_id]
        grid = volume_grid(
            (case.slices, case.size, case.size),
            voxel_mm=case.voxel_mm,
            target_mm=self._patches.spacing_mm,
        )
        centre = (key.start, *self._draw_pixel(key, draw.rng))
        spans = [
            _Span(axis, _draw_origin(axis.place(at), length, axis.size, draw.rng), length)
            for axis, at, length in zip(grid, centre, self._patches.patch_size, strict=True)
        ]
        label_bits, known_bits = self._nearest_labels(key.case_id, spans)
        return RawSample(self._resampled(key.case_id, spans), label_bits, known_bits)

    def _draw_pixel(self, key: SampleKey, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a labelled pixel of the key's slice; any pixel when there is none."""
        bits = self._labels(key.case_id, key.start, key.start + 1)[0][0]
        shown = int(np.bitwise_or.reduce(bits, axis=None))
        classes = [k for k in range(shown.bit_length()) if shown >> k & 1]
        if not classes:
            return int(rng.integers(bits.shape[0])), int(rng.integers(bits.shape[1]))
        places = np.argwhere(bits >> np.uint32(rng.choice(classes)) & np.uint32(1))
        row, column = places[int(rng.integers(len(places)))]
        return int(row), int(column)

    def _resampled(self, case_id: str, spans: list[_Span]) -> FloatArray:
        slices, rows, columns = (span.weights() for span in spans)
        padded = self._store.slices_hu(
            case_id, slices.start + SLICE_CONTEXT, slices.stop + SLICE_CONTEXT
        )
        block = padded[:, rows.start : rows.stop, columns.start : columns.stop].astype(np.float32)
        in_plane = rows.matrix @ (block - AIR_HU) @ columns.matrix.T
        above_air = np.tensordot(slices.matrix, in_plane, axes=1)
        return above_air.astype(np.float32, copy=False) + np.float32(AIR_HU)

    def _nearest_labels(
        self, case_id: str, spans: list[_Span]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        slices, rows, columns = (span.nearest() for span in spans)
        first, last = int(slices.min()), int(slices.max())
        found = self._labels(case_id, first, last + 1)
        index = np.ix_(slices - first, rows, columns)
        inside = np.ix_(*(span.inside() for span in spans))
        label_bits, known_bits = (bits[index] for bits in found)
        outside = np.ones(label_bits.shape, dtype=bool)
        outside[inside] = False
        label_bits[outside] = 0
        known_bits[outside] = 0
        return label_bits, known_bits


class _Weights(NamedTuple):
    """Target samples from the source samples ``start`` to ``stop``."""

    matrix: FloatArray
    start: int
    stop: int


class _Span(NamedTuple):
    """The target samples ``origin`` to ``origin + length`` of an axis; some may lie outside."""

    axis: Axis
    origin: int
    length: int

    def inside(self) -> NDArray[np.intp]:
        """Return which of the samples lie in the volume."""
        places = np.arange(self.origin, self.origin + self.length)
        return np.flatnonzero((places >= 0) & (places < self.axis.size))

    def weights(self) -> _Weights:
        """Return what the samples are made of; those outside are 0."""
        inside = self.inside()
        chosen = self.axis.forward()[self.origin + inside]
        touched = np.flatnonzero(chosen.any(axis=0))
        start, stop = int(touched[0]), int(touched[-1]) + 1
        matrix = np.zeros((self.length, stop - start), dtype=np.float32)
        matrix[inside] = chosen[:, start:stop]
        return _Weights(matrix, start, stop)

    def nearest(self) -> NDArray[np.intp]:
        """Return the source sample of each sample; for those outside, of the nearest inside."""
        places = np.arange(self.origin, self.origin + self.length)
        return self.axis.nearest()[np.clip(places, 0, self.axis.size - 1)]


def _draw_origin(centre: float, length: int, size: int, rng: np.random.Generator) -> int:
    """Return where a patch about ``centre`` begins; one that is too long lies about the middle."""
    if size <= length:
        return -((length - size) // 2)
    drawn = centre + rng.uniform(-_OFF_CENTRE, _OFF_CENTRE) * length - length / 2
    return int(np.clip(round(drawn), 0, size - length))
