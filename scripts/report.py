"""Write one HTML page from a run's results; see ``samcancer report --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("report"))
