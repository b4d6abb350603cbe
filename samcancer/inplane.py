"""Resizing slices in plane to S x S square pixels, and logits back to the scan's own pixels.

Arrays are (slice, row, column). The field of view is padded to a square in millimetres, the scan
centred and air around it, then divided into S x S pixels; nothing is resampled along z ([SC]
section 3). Each step is ``row_matrix @ slice @ column_matrix.T`` (see samcancer.resampling).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from samcancer.geometry import Geometry
from samcancer.resampling import (
    NEGLIGIBLE,
    FloatArray,
    backward_matrix,
    read_only,
    target_edges,
    triangle_weights,
)

AIR_HU = -1024
"""Value of pixels outside the scan's field of view."""

_COVERED = 0.5
"""Share of a pixel that a mask has to cover to set it."""


@dataclass(frozen=True)
class InPlaneGrid:
    """The pixels of a scan's slices and the size S they are resized to."""

    rows: int
    columns: int
    row_spacing_mm: float
    """Distance between rows."""
    column_spacing_mm: float
    """Distance between columns."""
    size: int

    def __post_init__(self) -> None:
        """Refuse sizes and spacings that are not positive."""
        values = (self.rows, self.columns, self.row_spacing_mm, self.column_spacing_mm, self.size)
        if not all(np.isfinite(v) and v > 0 for v in values):
            raise ValueError(f"an in-plane grid needs positive numbers, got {values!r}")

    @property
    def pixel_mm(self) -> float:
        """Edge length of the square pixels."""
        height, width = self.rows * self.row_spacing_mm, self.columns * self.column_spacing_mm
        return max(height, width) / self.size

    def image_matrices(self) -> tuple[FloatArray, FloatArray]:
        """Return (size, rows) and (size, columns) matrices; sums are the share inside the scan.

        Apply them to HU above :data:`AIR_HU`, so that the missing share counts as air.
        """
        return _image_matrix(*self._row_axis()), _image_matrix(*self._column_axis())

    def mask_matrices(self) -> tuple[FloatArray, FloatArray]:
        """Return (size, rows) and (size, columns) matrices that give a mask's coverage."""
        return _coverage_matrix(*self._row_axis()), _coverage_matrix(*self._column_axis())

    def logit_matrices(self) -> tuple[FloatArray, FloatArray]:
        """Return (rows, size) and (columns, size) matrices back to the scan; sums are 1."""
        return backward_matrix(*self._row_axis()), backward_matrix(*self._column_axis())

    def pixel_of(self, column: float, row: float) -> tuple[float, float]:
        """Return where a place of the scan's slice lies on the S x S slice, as (x, y).

        Pixel centres are whole numbers on both; both slices have the same centre.
        """
        x, y = (
            (index + 0.5 - count / 2) / scale + size / 2 - 0.5
            for index, (count, size, scale) in (
                (column, self._column_axis()),
                (row, self._row_axis()),
            )
        )
        return x, y

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> InPlaneGrid:
        """Rebuild from :meth:`to_dict`'s form."""
        return InPlaneGrid(**content)

    def _row_axis(self) -> tuple[int, int, float]:
        return self.rows, self.size, self.pixel_mm / self.row_spacing_mm

    def _column_axis(self) -> tuple[int, int, float]:
        return self.columns, self.size, self.pixel_mm / self.column_spacing_mm


def in_plane_grid(canonical: Geometry, size: int) -> InPlaneGrid:
    """Return the grid that resizes the slices of a canonical volume to ``size``."""
    columns, rows, _ = canonical.size_xyz
    column_spacing_mm, row_spacing_mm, _ = canonical.spacing_mm
    return InPlaneGrid(rows, columns, row_spacing_mm, column_spacing_mm, size)


def resize_slices(volume_hu: NDArray[np.int16], grid: InPlaneGrid) -> NDArray[np.int16]:
    """Resize (Z, rows, columns) HU to (Z, S, S), rounding to whole HU.

    Raises:
        ValueError: When the volume does not have the grid's rows and columns.
    """
    _require_shape(volume_hu, grid)
    row, column = (sparse.csr_matrix(m) for m in grid.image_matrices())
    resized = np.empty((len(volume_hu), grid.size, grid.size), np.int16)
    for z, image_hu in enumerate(volume_hu):
        above_air = image_hu.astype(np.float32) - AIR_HU
        half = row @ above_air
        whole = (column @ np.ascontiguousarray(half.T)).T + AIR_HU
        resized[z] = np.clip(np.rint(whole), -32768, 32767)
    return resized


def resize_mask(mask: NDArray[np.bool_], grid: InPlaneGrid) -> NDArray[np.bool_]:
    """Resize a (Z, rows, columns) mask to (Z, S, S).

    A pixel is set where the mask covers at least half of it. In addition every connected in-plane
    component (4-neighbours) of the source overlaps at least one set pixel, so that no lesion
    vanishes, however small.

    Raises:
        ValueError: When the mask does not have the grid's rows and columns.
    """
    _require_shape(mask, grid)
    matrices = grid.mask_matrices()
    row, column = (sparse.csr_matrix(m) for m in matrices)
    resized = np.zeros((len(mask), grid.size, grid.size), np.bool_)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        half = row @ mask[z].astype(np.float32)
        coverage = (column @ np.ascontiguousarray(half.T)).T
        resized[z] = coverage >= _COVERED - NEGLIGIBLE
        _keep_components(mask[z], resized[z], matrices)
    return resized


def _keep_components(
    mask: NDArray[np.bool_], resized: NDArray[np.bool_], matrices: tuple[FloatArray, FloatArray]
) -> None:
    """Set in ``resized`` the best covered pixel of each component that has no pixel yet."""
    row, column = matrices
    components, _ = ndimage.label(mask)
    for index, (rows, columns) in enumerate(ndimage.find_objects(components), start=1):
        component = (components[rows, columns] == index).astype(np.float32)
        out_rows = _touched(row[:, rows])
        out_columns = _touched(column[:, columns])
        share = row[out_rows, rows] @ component @ column[out_columns, columns].T
        window = resized[out_rows, out_columns]
        if not window[share > 0].any():
            window[np.unravel_index(np.argmax(share), share.shape)] = True


def _touched(weights: FloatArray) -> slice:
    indices = np.flatnonzero(weights.any(axis=1))
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _require_shape(array: NDArray[Any], grid: InPlaneGrid) -> None:
    if array.ndim != 3 or array.shape[1:] != (grid.rows, grid.columns):
        raise ValueError(
            f"expected (slices, {grid.rows}, {grid.columns}) for this grid, got {array.shape}"
        )


@lru_cache(maxsize=64)
def _image_matrix(count: int, size: int, scale: float) -> FloatArray:
    edges = target_edges(count, size, scale)
    inside = np.clip(edges, 0, count)
    share = np.diff(inside) / scale
    centres = (inside[:-1] + inside[1:]) / 2
    return read_only(triangle_weights(centres, count, max(1.0, scale)) * share[:, None])


@lru_cache(maxsize=64)
def _coverage_matrix(count: int, size: int, scale: float) -> FloatArray:
    if scale < 1:
        return _image_matrix(count, size, scale)
    edges = target_edges(count, size, scale)
    upper = np.minimum(edges[1:, None], np.arange(1, count + 1))
    lower = np.maximum(edges[:-1, None], np.arange(count))
    overlap = np.maximum(upper - lower, 0) / scale
    return read_only(np.where(overlap > NEGLIGIBLE, overlap, 0))
