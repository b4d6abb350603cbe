"""Small inputs are shared with the tests of the parts that make them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [
    str(Path(__file__).resolve().parents[1] / part)
    for part in ("data_prep", "inference", "training", "volume_io")
]
