"""Train one fold of the cross-validation; see ``samcancer train-fold --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("train-fold"))
