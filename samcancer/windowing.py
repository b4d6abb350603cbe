"""Hounsfield units to grey values: a window maps its range to [0, 1] and clips the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from samcancer.config import WindowHu

if TYPE_CHECKING:
    from torch import Tensor

_Grey = TypeVar("_Grey", NDArray[np.float32], "Tensor")


def window(image_hu: _Grey, window_hu: WindowHu) -> _Grey:
    """Map HU of any shape to [0, 1].

    Args:
        image_hu: float32 values in HU, an array or a tensor.
        window_hu: The values that become 0 and 1.

    Raises:
        ValueError: When the window is empty.
    """
    lower, upper = window_hu
    if not lower < upper:
        msg = f"window must have lower < upper, got {window_hu!r}"
        raise ValueError(msg)
    return ((image_hu - lower) / (upper - lower)).clip(0.0, 1.0)
