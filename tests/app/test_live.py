"""The four views, written to a file that is sometimes said to be a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from p2pfusion.app.board import Board
from p2pfusion.app.live import JsonView, LiveView, PlainView, QuietView, View, choose_view, is_drawable, render
from p2pfusion.app.output import DemoDoneLine, DoneLine, Line, PeerLine, RoundLine, SliceAxis, WarningLine
from p2pfusion.app.words import ASCII, UNICODE

HALF = {"hidden": SliceAxis(256, ((0, 64), (128, 192)))}


class Stream(io.TextIOWrapper):
    """A file in memory with an encoding, that counts how often it was flushed."""

    def __init__(self, *, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self._terminal = terminal
        self.flushes = 0

    def isatty(self) -> bool:
        return self._terminal

    def flush(self) -> None:
        self.flushes += 1
        super().flush()

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


@pytest.fixture
def lines(round_line: Callable[..., RoundLine], done_line: Callable[..., DoneLine]) -> list[Line]:
    return [
        PeerLine(name="otter", id="ab12", state="alive"),
        round_line(round=1, loss=2.0, accuracy=None, slice=HALF),
        WarningLine(code="late", text="work came too late"),
        round_line(round=2, loss=0.5, slice=HALF),
        PeerLine(name="otter", id="ab12", state="left"),
        done_line(),
    ]


def drawn(board: Board, *, width: int = 80, elapsed_s: float = 9.0, unicode: bool = True) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None)
    console.print(render(board, elapsed_s, UNICODE if unicode else ASCII))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_table_shows_who_is_here_and_what_they_train(lines: list[Line]) -> None:
    board = Board()
    for line in lines[:-1]:
        board.feed("fox", line)
    assert drawn(board) == "\n".join(
        [
            " round 2   loss 0.500 █▁   accuracy 90.0 % ▁   0:09",
            " node   trains     share  round   loss   heard    sent  received  state",
            " fox    ██▒▒██▒▒  30.0 %      2  0.500  3 of 3  2.0 kB    4.0 kB  training",
            " otter                                                            left",
            " sent 2.0 kB (weights 1.8 kB, lists 120 B, talk 80 B)",
            " received 4.0 kB (weights 3.6 kB, lists 240 B, talk 160 B)",
            " warning: fox: work came too late",
        ]
    )


@pytest.mark.parametrize("width", [60, 80])
def test_of_several_networks_every_accuracy_is_shown(width: int, round_line: Callable[..., RoundLine]) -> None:
    board = Board()
    board.feed("fox", round_line(widths={"25%": 0.5, "50%": 0.9, "100%": 0.7}))
    board.feed("fox", round_line(widths={}))
    assert drawn(board, width=width).splitlines()[1] == " width 25%: 50.0 %, 50%: 90.0 %, 100%: 70.0 %"


def test_the_table_of_a_demo_has_a_row_per_node_from_the_start(round_line: Callable[..., RoundLine]) -> None:
    board = Board(tagged=True)
    for name in ("fox", "otter"):
        board.add(name)
    board.feed("fox", PeerLine(name="otter", id="1", state="alive"))
    board.feed("otter", round_line(slice=HALF, loss=None))
    text = drawn(board, unicode=False)
    assert text.isascii()
    assert [line.split()[0] for line in text.splitlines()] == ["round", "node", "fox", "otter", "sent", "received"]
    assert "##..##.." in text
    assert "waiting" in text


def test_a_narrow_terminal_does_not_break_it(lines: list[Line]) -> None:
    board = Board()
    for line in lines:
        board.feed("fox", line)
    assert all(len(line) <= 40 for line in drawn(board, width=40).splitlines())


def test_json_lines_are_flushed_one_by_one_and_notes_go_elsewhere(lines: list[Line]) -> None:
    out, notes = Stream(), Stream()
    view = JsonView(out, notes)
    view.note("starting torch")
    for number, line in enumerate(lines, 1):
        view.show("fox", line)
        assert len(out.text().splitlines()) == number
    assert out.flushes >= len(lines)
    events = [json.loads(text)["event"] for text in out.text().splitlines()]
    assert events == ["peer", "round", "warning", "round", "peer", "done"]
    assert notes.text() == "starting torch\n"
    assert all("node" not in json.loads(text) for text in out.text().splitlines())


def test_of_several_nodes_every_line_says_whose_it_is_and_only_the_last_is_done(
    lines: list[Line], done_line: Callable[..., DoneLine]
) -> None:
    out = Stream()
    view = JsonView(out, None, tagged=True)
    view.note("nobody hears this")
    for line in lines:
        view.show("fox", line)
    end = done_line(name="demo")
    values = {name: getattr(end, name) for name in DoneLine.__dataclass_fields__ if name != "event"}
    view.show(
        "demo", DemoDoneLine(**values, nodes=(end,), alone_accuracy=None, small_accuracy=None, full_accuracy=None)
    )
    objects = [json.loads(text) for text in out.text().splitlines()]
    assert [value["event"] for value in objects] == ["peer", "round", "warning", "round", "peer", "done"]
    assert [value.get("node") for value in objects] == ["fox"] * 5 + [None]


def test_plain_text_is_one_line_per_round_and_change(lines: list[Line]) -> None:
    out, notes = Stream(), Stream()
    view = PlainView(out, notes)
    for line in lines:
        view.show("fox", line)
    view.close()
    assert out.text().splitlines() == [
        "otter is here",
        "round 1 · loss 2.000 · fox ██▒▒██▒▒ · sent 1.0 kB · received 2.0 kB",
        "round 2 · loss 0.500 · accuracy 90.0 % · fox ██▒▒██▒▒ · sent 2.0 kB · received 4.0 kB",
        "otter has left",
    ]
    assert notes.text() == "warning: work came too late\n"


def test_plain_text_tells_every_width(round_line: Callable[..., RoundLine]) -> None:
    out = Stream()
    PlainView(out, Stream()).show("fox", round_line(round=2, widths={"25%": 0.5, "100%": 0.9}))
    assert " · accuracy 90.0 % · 25%: 50.0 %, 100%: 90.0 % · fox " in out.text()


def test_plain_text_of_several_nodes_is_one_line_per_round_too(round_line: Callable[..., RoundLine]) -> None:
    out = Stream(encoding="ascii")
    view = PlainView(out, Stream(), tagged=True)
    view.expect("otter")
    view.show("fox", PeerLine(name="wren", id="1", state="suspect"))
    for number in (1, 2):
        for name, loss in (("fox", 1.0), ("otter", 3.0)):
            view.show(name, round_line(round=number, loss=loss))
    view.close()
    view.close()
    assert out.text().splitlines() == [
        "fox: wren has fallen silent",
        "round 1 - loss 1.000 - accuracy 90.0 % - otter ######## - fox ######## - sent 2.0 kB - received 4.0 kB",
        "round 2 - loss 2.000 - accuracy 90.0 % - otter ######## - fox ######## - sent 4.0 kB - received 8.0 kB",
    ]


def test_a_terminal_gets_a_table_that_is_redrawn_and_its_cursor_back(lines: list[Line]) -> None:
    out = Stream(terminal=True)
    console = Console(file=out, force_terminal=True, width=100, color_system="standard", _environ={})
    view = LiveView(console, tagged=True)
    view.tick(0.0)
    assert out.text() == ""
    view.expect("fox")
    view.note("starting [torch]")
    for elapsed_s, line in enumerate(lines):
        view.show("fox", line)
        view.tick(elapsed_s)
    view.close()
    view.tick(99.0)
    view.close()
    text = out.text()
    assert "starting [torch]" in text
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "1:39" not in text


def chosen(out: Stream, environ: dict[str, str], **options: bool) -> View:
    flags = {"json": False, "quiet": False, "plain": False, "tagged": False, **options}
    return choose_view((out, Stream()), environ, **flags)


def test_the_view_follows_the_options_and_the_terminal() -> None:
    terminal, xterm = Stream(terminal=True), {"TERM": "xterm"}
    assert type(chosen(terminal, xterm)) is LiveView
    assert type(chosen(terminal, xterm, plain=True)) is PlainView
    assert type(chosen(terminal, xterm, json=True)) is JsonView
    assert type(chosen(terminal, xterm, quiet=True)) is QuietView
    assert type(chosen(terminal, xterm, quiet=True, json=True)) is JsonView
    assert type(chosen(Stream(), xterm)) is PlainView


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}, {"TERM": "unknown"}])
def test_no_escape_byte_where_none_is_wanted(environ: dict[str, str], lines: list[Line]) -> None:
    out = Stream(terminal=True)
    view = chosen(out, environ)
    for line in lines:
        view.show("fox", line)
        view.tick(1.0)
    view.close()
    assert out.text()
    assert "\x1b" not in out.text()


def test_what_is_drawable() -> None:
    assert is_drawable(Stream(terminal=True), {})
    assert is_drawable(Stream(terminal=True), {"NO_COLOR": ""})
    assert not is_drawable(Stream(), {"FORCE_COLOR": "1"})


def test_the_quiet_view_says_nothing(lines: list[Line], capfd: pytest.CaptureFixture[str]) -> None:
    view = QuietView()
    view.expect("fox")
    view.note("note")
    view.show("fox", lines[0])
    view.tick(1.0)
    view.close()
    assert capfd.readouterr() == ("", "")
