"""Train on labels merged with pseudo labels.

Example:
    python scripts/train_final.py --data store --output runs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer train-final`` and return its exit status."""
    return run_verb("train-final", argv)


if __name__ == "__main__":
    sys.exit(main())
