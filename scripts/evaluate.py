"""Score predictions against references.

Example:
    python scripts/evaluate.py --reference labelsTs --prediction masks --output scores
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer evaluate`` and return its exit status."""
    return run_verb("evaluate", argv)


if __name__ == "__main__":
    sys.exit(main())
