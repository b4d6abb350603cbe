"""Write synthetic patients with partial labels.

Example:
    python scripts/make_phantoms.py --out raw --cases 8 --seed 1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer make-phantoms`` and return its exit status."""
    return run_verb("make-phantoms", argv)


if __name__ == "__main__":
    sys.exit(main())
