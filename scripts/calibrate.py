"""Thresholds that keep healthy scans clean, at a stated price in sensitivity.

Example:
    python scripts/calibrate.py --runs runs --data store --healthy healthy --max-fp-scans 0.05
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer calibrate`` and return its exit status."""
    return run_verb("calibrate", argv)


if __name__ == "__main__":
    sys.exit(main())
