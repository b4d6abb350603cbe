"""Bring published weights (SAM, MedSAM, CLIP) into the folder of checkpoints, verified.

Example:
    python scripts/fetch_checkpoints.py medsam_lite
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer fetch-checkpoints`` and return its exit status."""
    return run_verb("fetch-checkpoints", argv)


if __name__ == "__main__":
    sys.exit(main())
