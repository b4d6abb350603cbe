"""Small inputs are shared with the tests of the parts that make them."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

sys.path += [
    *(str(TESTS / part) for part in ("data_prep", "inference", "training", "volume_io")),
    str(TESTS.parent / "benchmarks"),
]
