"""Arrays of a scan that are too large for memory, in an unfinished file while they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.files import temporary_path_for


@contextlib.contextmanager
def scratch_arrays(
    path: Path, count: int, shape: tuple[int, ...]
) -> Iterator[list[NDArray[np.float16]]]:
    """Yield ``count`` arrays of zeros that end with the block.

    Args:
        path: The file is made beside it, under a temporary name.
        count: 0 makes no file.
        shape: Of each array.
    """
    if count == 0:
        yield []
        return
    temporary = temporary_path_for(path)
    try:
        yield list(np.memmap(temporary, dtype=np.float16, mode="w+", shape=(count, *shape)))
    finally:
        temporary.unlink(missing_ok=True)
