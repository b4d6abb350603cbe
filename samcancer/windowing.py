"""Hounsfield units to grey values: a window maps its range to [0, 1] and clips the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samcancer.config import WindowHu


def window(
    image_hu: NDArray[np.int16] | NDArray[np.float32], window_hu: WindowHu
) -> NDArray[np.float32]:
    """Map HU of any shape to float32 in [0, 1].

    Args:
        image_hu: Values in HU.
        window_hu: The values that become 0 and 1.

    Raises:
        ValueError: When the window is empty.
    """
    lower, upper = window_hu
    if not lower < upper:
        msg = f"window must have lower < upper, got {window_hu!r}"
        raise ValueError(msg)
    grey = image_hu.astype(np.float32)
    grey -= lower
    grey /= upper - lower
    return np.clip(grey, 0.0, 1.0, out=grey)
