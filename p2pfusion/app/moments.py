"""When what began, for whoever asks why starting takes so long: `bench/startup.py` reads it.

With `P2PFUSION_MOMENTS` naming a file, every process of a command appends lines `pid name seconds processor_seconds`
to it; without it nothing is done. Seconds are those of one clock that all processes of a computer share.
"""

from __future__ import annotations

import os
import time

VARIABLE = "P2PFUSION_MOMENTS"


def mark(name: str, ago_s: float = 0.0) -> None:
    """This begins now, or began that long ago."""
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            # One short write: lines of several processes do not mix.
            file.write(f"{os.getpid()} {name} {time.perf_counter() - ago_s:.6f} {time.process_time():.6f}\n")
