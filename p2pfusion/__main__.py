"""`python -m p2pfusion` is the command line; this module knows nothing else."""

from __future__ import annotations

import sys

from p2pfusion.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
