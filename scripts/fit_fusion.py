"""Combine several systems into one model, class by class.

Example:
    python scripts/fit_fusion.py --data store --runs runs_sam runs_unet --output fused
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer fit-fusion`` and return its exit status."""
    return run_verb("fit-fusion", argv)


if __name__ == "__main__":
    sys.exit(main())
