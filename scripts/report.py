"""Write one HTML page from a run's results.

Example:
    python scripts/report.py --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer report`` and return its exit status."""
    return run_verb("report", argv)


if __name__ == "__main__":
    sys.exit(main())
