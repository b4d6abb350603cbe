"""Compute once what a frozen encoder says of every slice, for training to read.

Example:
    python scripts/cache_features.py --data store --config configs/ladder.yaml --output features
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer cache-features`` and return its exit status."""
    return run_verb("cache-features", argv)


if __name__ == "__main__":
    sys.exit(main())
