"""Label unknown classes with the fold models; see ``samcancer pseudo-label --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("pseudo-label"))
