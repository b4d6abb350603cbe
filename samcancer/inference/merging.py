"""Lesions of every class as one label, as FLARE24 scores them and [LV] writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samcancer.taxonomy import ClassSpec

ANY_LESION = "lesion"
"""Name of the one label; the taxonomy's class for any lesion."""


def written_labels(classes: Sequence[ClassSpec], *, merged: bool) -> dict[str, int]:
    """Return name -> value in the written mask."""
    return {ANY_LESION: 1} if merged else {c.name: k + 1 for k, c in enumerate(classes)}


def merge_lesions(labels: NDArray[np.uint8], classes: Sequence[ClassSpec]) -> None:
    """Set 1 where a lesion of any class is and 0 elsewhere, organs included, in place.

    Args:
        labels: (slice, row, column), k + 1 for class k.
        classes: Of the labels.
    """
    is_lesion = np.zeros(len(classes) + 1, dtype=np.uint8)
    is_lesion[1:] = [spec.kind == "lesion" for spec in classes]
    for plane in labels:
        plane[...] = is_lesion[plane]
