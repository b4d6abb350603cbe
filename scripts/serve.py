"""Serve a page on this machine where scans are dropped and masks fetched.

Example:
    python scripts/serve.py --model runs/final --open
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer serve`` and return its exit status."""
    return run_verb("serve", argv)


if __name__ == "__main__":
    sys.exit(main())
