"""Segment whole scans on their own grid.

Example:
    python scripts/infer_volume.py --input scan.nii.gz --output masks --model runs/final
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer infer-volume`` and return its exit status."""
    return run_verb("infer-volume", argv)


if __name__ == "__main__":
    sys.exit(main())
