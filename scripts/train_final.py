"""Train on labels merged with pseudo labels; see ``samcancer train-final --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("train-final"))
