"""Train one fold of the cross-validation.

Example:
    python scripts/train_fold.py --data store --output runs --fold 0
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer train-fold`` and return its exit status."""
    return run_verb("train-fold", argv)


if __name__ == "__main__":
    sys.exit(main())
