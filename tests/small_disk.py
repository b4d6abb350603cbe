"""A disk that is full in a moment."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_LAZY_UNMOUNT = 2
"""MNT_DETACH of umount2: also while something is still open there."""


@contextlib.contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """Mount an empty disk on a new folder; skips where the tests may not mount one."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size_bytes}".encode()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options) != 0:
        pytest.skip(f"cannot mount a small disk ({os.strerror(ctypes.get_errno())})")
    try:
        yield folder
    finally:
        libc.umount2(str(folder).encode(), _LAZY_UNMOUNT)
