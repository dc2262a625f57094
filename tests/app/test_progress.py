"""How far a sweep is: a bar on a terminal, a line every ten seconds elsewhere, nothing with -q."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from p2pfusion.app import progress
from p2pfusion.app.progress import LINE_EVERY_S, BarMeter, PlainMeter, QuietMeter, choose_meter


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "perf_counter", made)
    return made


def test_a_plain_line_comes_every_ten_seconds(clock: Clock) -> None:
    out = io.StringIO()
    meter = PlainMeter(out)
    meter.start([10, 20])
    meter.told(0, 3)
    assert out.getvalue() == ""
    clock.now_s += LINE_EVERY_S
    meter.told(1, 4)
    meter.told(1, 5)
    assert out.getvalue() == "0:10 0/2 runs, 7/30 rounds\n"
    clock.now_s += LINE_EVERY_S
    meter.finished(0)
    assert out.getvalue().splitlines()[1:] == ["0:20 1/2 runs, 15/30 rounds"]
    meter.note("something")
    assert out.getvalue().endswith("\nsomething\n")


def test_rounds_never_fall_nor_exceed_what_is_wanted(clock: Clock) -> None:
    meter = PlainMeter(io.StringIO())
    meter.start([10])
    for rounds in (4, 2, 12):
        meter.told(0, rounds)
    assert meter.words() == "0/1 runs, 10/10 rounds"


def test_a_bar_is_drawn_and_taken_away() -> None:
    out = io.StringIO()
    meter = BarMeter(Console(file=out, force_terminal=True, width=100))
    meter.start([10])
    meter.told(0, 5)
    meter.note("[odd] words")
    meter.close()
    meter.close()
    text = out.getvalue()
    assert "0/1 runs, 5/10 rounds" in text
    assert "[odd] words" in text


def test_results_in_a_pipe_stay_there(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    meter = BarMeter(Console(file=out, force_terminal=True, width=100))
    meter.start([10])
    print("a result")
    meter.close()
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in out.getvalue()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    meter = choose_meter({}, quiet=True)
    assert type(meter) is QuietMeter
    meter.start([1])
    meter.told(0, 1)
    meter.finished(0)
    meter.note("a word")
    meter.close()
    assert capsys.readouterr() == ("", "")


def test_the_terminal_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(choose_meter({}, quiet=False)) is PlainMeter
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert type(choose_meter({"TERM": "xterm"}, quiet=False)) is BarMeter
    assert type(choose_meter({"TERM": "xterm", "NO_COLOR": "1"}, quiet=False)) is PlainMeter
