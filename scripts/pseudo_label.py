"""Label unknown classes with the fold models.

Example:
    python scripts/pseudo_label.py --data store --runs runs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer pseudo-label`` and return its exit status."""
    return run_verb("pseudo-label", argv)


if __name__ == "__main__":
    sys.exit(main())
