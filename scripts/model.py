"""Print the network's size and cost.

Example:
    python scripts/model.py --encoder sam_vit_b
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer model`` and return its exit status."""
    return run_verb("model", argv)


if __name__ == "__main__":
    sys.exit(main())
