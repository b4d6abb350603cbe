"""HU as 8-bit levels, fine in soft tissue and coarse in air, lung and bone, and back.

A level is 3 HU in soft tissue, 17 HU in lung and fat-free air, 38 HU in bone and 224 HU in metal:
every one of the viewer's windows keeps at least 50 grey levels, and one byte a voxel is all that a
picture format takes. Values beyond the ends get the end's level.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_HU_KNOTS = (-1024, -200, 300, 1500, 3071)
"""Where the step between levels changes; from air to the largest value of a 12-bit scanner."""

_LEVEL_KNOTS = (0, 48, 216, 248, 255)
"""Levels at those values; straight lines in between."""

LEVELS = 256


def to_levels(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Return the nearest level of every voxel; any shape."""
    levels: npt.NDArray[np.uint8] = _LEVEL_OF_HU[hu.view(np.uint16)]
    return levels


def level_hu() -> npt.NDArray[np.float64]:
    """Return the HU (256,) that each level stands for."""
    return np.interp(np.arange(LEVELS), _LEVEL_KNOTS, _HU_KNOTS)


def _level_table() -> npt.NDArray[np.uint8]:
    """Return the level (65536,) of every int16, in the order of its bits read as uint16."""
    every_hu = np.arange(1 << 16, dtype=np.uint16).view(np.int16)
    return np.rint(np.interp(every_hu, _HU_KNOTS, _LEVEL_KNOTS)).astype(np.uint8)


_LEVEL_OF_HU = _level_table()
