"""Print the network's size and cost; see ``samcancer model --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("model"))
