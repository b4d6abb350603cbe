"""Turn raw scans and labels into a case store; see ``samcancer prepare-slices --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("prepare-slices"))
