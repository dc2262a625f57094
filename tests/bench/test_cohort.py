"""Processes that are measured end for certain."""

import sys
from pathlib import Path

import psutil
import pytest

from bench.cohort import Cohort, Failed, nothing_left

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print('{\"child\": %d}' % child.pid, flush=True)\n"
    "time.sleep(60)"
)


@pytest.mark.e2e
def test_answers_come_in_order_and_silence_is_a_failure(tmp_path: Path) -> None:
    with Cohort() as cohort:
        child = cohort.start([sys.executable, "-c", ECHO], tmp_path / "log")
        assert cohort.tell_all({"do": "it"}) == [{"do": "it"}]
        with pytest.raises(Failed, match="no answer"):
            child.hear(limit_s=0.05)
        (process, *_) = child.tree()
    assert not process.is_running()


@pytest.mark.e2e
def test_nothing_is_left_of_who_does_not_want_to_leave(tmp_path: Path) -> None:
    """Neither the process nor what it started in a session of its own."""
    started = []

    def interrupted() -> None:
        with nothing_left(), Cohort() as cohort:
            child = cohort.start([sys.executable, "-c", STUBBORN], tmp_path / "log")
            started.append(psutil.Process(child.hear()["child"]))
            assert started[0].is_running()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not started[0].is_running()
