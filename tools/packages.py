"""packages DISTRIBUTION PROGRAM...: prints what these programs are packaged as there."""

from __future__ import annotations

import sys

from cloudme.model import distributions

if __name__ == "__main__":
    known = sys.argv[1] if sys.argv[1] in distributions.COMMANDS else "debian"
    print(*distributions.packages(known, sys.argv[2:]))
