"""Write one HTML page per scan, with a slice viewer, and an index.

Example:
    python scripts/view.py --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer view`` and return its exit status."""
    return run_verb("view", argv)


if __name__ == "__main__":
    sys.exit(main())
