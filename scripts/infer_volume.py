"""Segment whole scans on their own grid; see ``samcancer infer-volume --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("infer-volume"))
