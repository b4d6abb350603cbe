"""Turn raw scans and labels into a case store.

Example:
    python scripts/prepare_slices.py --input raw/Dataset901_Phantom_Liver --output store
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer prepare-slices`` and return its exit status."""
    return run_verb("prepare-slices", argv)


if __name__ == "__main__":
    sys.exit(main())
