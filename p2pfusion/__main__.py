"""The process around the command line: `p2pfusion` and `python -m p2pfusion` both end here, and nothing else does.

A training step that is under way cannot be stopped from outside, and the interpreter would wait for its thread. By then
everything is said and saved, so the process goes without it: Ctrl-C takes no longer because a step does.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress

from p2pfusion.app.cli import main


def entry() -> None:
    """Run the command line and end the process with its exit status."""
    status = main()
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
