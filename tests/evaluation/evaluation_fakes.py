"""Types shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

WriteLabels = Callable[..., Path]
