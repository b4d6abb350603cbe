"""Score predictions against references; see ``samcancer evaluate --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("evaluate"))
