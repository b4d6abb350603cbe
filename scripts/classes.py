"""Print the classes with prompts, SNOMED CT codes and organs, and what data sets annotate.

Example:
    python scripts/classes.py --class-set universal_model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer classes`` and return its exit status."""
    return run_verb("classes", argv)


if __name__ == "__main__":
    sys.exit(main())
