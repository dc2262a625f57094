"""How a measuring program and one of its peers talk: a line of JSON each way, over the standard streams.

The one that measures says `prepare`, `go` (with a moment on the machine's monotonic clock, the same for everybody),
`verify`; the peer answers each line with one line. End of input means: leave. It knows no system and only the standard
library, because it runs in everybody's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Answer = dict[str, Any]
Deeds = Mapping[str, Callable[[Mapping[str, Any]], Answer]]
"""What a peer can be told to do, by name."""

SPIN_S = 0.002
"""Slept until this long before the start and spun from there: sleeping is that exact on a busy machine."""

ONE_THREAD = dict.fromkeys(
    (f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON")), "1"
)
"""Environment of every peer: one thread for every numeric library."""


def now_s() -> float:
    """The machine's monotonic clock: the same for all its processes."""
    return time.monotonic()


def wait_until(at_s: float) -> None:
    """Return at that moment of `now_s`."""
    while (left_s := at_s - now_s()) > 0:
        if left_s > SPIN_S:
            time.sleep(left_s - SPIN_S)


class Line:
    """The peer's end. Whatever a library prints goes to standard error: standard output is for answers."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, answer: Answer) -> None:
        """One line to the one that measures."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def serve(self, deeds: Deeds) -> None:
        """Do what is told, line by line, until there is no more."""
        for line in sys.stdin:
            order = json.loads(line)
            self.say(deeds[order["do"]](order))
