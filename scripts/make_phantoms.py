"""Write synthetic patients with partial labels; see ``samcancer make-phantoms --help``."""

import sys

from samcancer.commands import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("make-phantoms"))
