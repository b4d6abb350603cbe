"""``python -m samcancer VERB ...``: the console command, for launchers that take a module."""

from __future__ import annotations

import sys

from samcancer.commands import main

if __name__ == "__main__":
    sys.exit(main())
