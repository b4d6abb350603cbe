"""What the viewer of an open page shows, pixel by pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from PIL import Image

OpenPage = Callable[..., AbstractContextManager[Any]]


def shown_slice(page: Any, z: int) -> None:
    """Wait until the viewer has drawn slice ``z``, counted from 0 at the feet."""
    page.wait_for_function(
        "z => document.querySelector('.picture').dataset.slice === String(z)", arg=z
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")


def canvas_rgb(page: Any) -> np.ndarray:
    """Return the viewer's pixels (rows, columns, 3)."""
    data = page.evaluate("document.querySelector('.picture canvas').toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(data.split(",")[1])))
    return np.asarray(picture.convert("RGB"))


def at_voxels(rgb: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the colours (rows, columns, 3) at the centres of the voxels."""
    rows, columns = (
        (np.arange(n) + 0.5) / n * size for n, size in zip(shape, rgb.shape[:2], strict=True)
    )
    return rgb[rows.astype(int)][:, columns.astype(int)]
