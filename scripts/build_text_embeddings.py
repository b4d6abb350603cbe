"""Embed the prompts of classes with the text tower of a CLIP model, once.

Example:
    python scripts/build_text_embeddings.py --tower clip_vit_b_32
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from samcancer.commands import run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``samcancer build-text-embeddings`` and return its exit status."""
    return run_verb("build-text-embeddings", argv)


if __name__ == "__main__":
    sys.exit(main())
