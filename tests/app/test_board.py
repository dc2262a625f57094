"""Lines in, rows out: nothing is drawn here."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.base import Traffic
from p2pfusion.app.board import BAR_CELLS, HISTORY_MAX, ROWS_MAX, WARNINGS_MAX, Board, slice_cells
from p2pfusion.app.output import DoneLine, PeerLine, RoundLine, SliceAxis, WarningLine

HALVES = [True] * 4 + [False] * 4


def peer(name: str, state: str = "alive", id: str | None = None) -> PeerLine:
    return PeerLine(name=name, id=id or f"id of {name}", state=state)


def test_a_node_of_our_own_goes_from_starting_to_done(
    round_line: Callable[..., RoundLine], done_line: Callable[..., DoneLine]
) -> None:
    board = Board()
    board.add("fox")
    states = [board.rows["fox"].state]
    for line in (peer("otter"), round_line(), done_line()):
        board.feed("fox", line)
        states.append(board.rows["fox"].state)
    assert states == ["starting", "waiting", "training", "done"]


def test_a_run_that_ends_otherwise_says_how(done_line: Callable[..., DoneLine]) -> None:
    board = Board()
    board.feed("fox", done_line(status="timeout"))
    assert board.rows["fox"].state == "timeout"


def test_peers_are_rows_that_change_their_state() -> None:
    board = Board()
    for state in ("alive", "suspect", "dead"):
        board.feed("fox", peer("otter", state))
    assert [(row.name, row.mine, row.state) for row in board.rows.values()] == [
        ("fox", True, "waiting"),
        ("otter", False, "dead"),
    ]
    assert board.rows["fox"].peers == 0


def test_a_namesake_on_another_computer_is_somebody_else() -> None:
    board = Board()
    board.feed("fox", peer("fox", id="ab12cd"))
    assert [row.name for row in board.rows.values()] == ["fox", "fox ab12"]


def test_in_a_demo_a_peer_of_our_own_name_is_our_own_node() -> None:
    board = Board(tagged=True)
    board.add("fox")
    board.add("otter")
    board.feed("fox", peer("otter"))
    board.feed("otter", peer("fox"))
    assert list(board.rows) == ["fox", "otter"]
    assert [row.peers for row in board.rows.values()] == [1, 1]


def test_bytes_of_rounds_add_up_until_the_end_gives_the_total(
    round_line: Callable[..., RoundLine], done_line: Callable[..., DoneLine]
) -> None:
    board = Board()
    board.feed("fox", round_line(round=1, bytes_sent=10, bytes_received=20, traffic=Traffic(payload_sent=10)))
    board.feed("fox", round_line(round=2, bytes_sent=1, bytes_received=2, traffic=Traffic(gossip_sent=1)))
    assert board.traffic == Traffic(payload_sent=10, gossip_sent=1)
    row = board.rows["fox"]
    assert (row.bytes_sent, row.bytes_received) == (11, 22)
    board.feed("fox", done_line(bytes_sent=99, bytes_received=98, traffic=Traffic(payload_sent=99)))
    assert board.traffic == Traffic(payload_sent=99)
    assert (row.bytes_sent, row.bytes_received) == (99, 98)


def test_the_loss_of_a_swarm_is_the_mean_of_its_nodes(round_line: Callable[..., RoundLine]) -> None:
    board = Board(tagged=True)
    board.feed("fox", round_line(round=1, loss=1.0))
    board.feed("otter", round_line(round=1, loss=3.0))
    board.feed("fox", round_line(round=2, loss=1.0))
    assert list(board.losses) == [1.0, 2.0]
    assert board.round == 2


def test_a_round_that_trained_nothing_leaves_the_loss_alone(round_line: Callable[..., RoundLine]) -> None:
    board = Board()
    board.feed("fox", round_line(loss=None, accuracy=None))
    assert not board.losses
    assert not board.accuracies
    assert board.rows["fox"].loss is None


def test_an_accuracy_that_is_only_repeated_is_one_point(round_line: Callable[..., RoundLine]) -> None:
    board = Board(tagged=True)
    for number, accuracy in enumerate([None, 0.5, 0.5, 0.5, 0.6], 1):
        board.feed("fox", round_line(round=number, accuracy=accuracy))
    assert list(board.accuracies) == [0.5, 0.6]


def test_everything_is_bounded(round_line: Callable[..., RoundLine]) -> None:
    board = Board()
    for number in range(2 * ROWS_MAX):
        board.feed("fox", peer(f"peer {number}"))
        board.feed("fox", round_line(round=number, accuracy=number / 1000))
        board.feed("fox", WarningLine(code="code", text=f"text {number}"))
    assert len(board.rows) == ROWS_MAX
    assert board.rows["fox"].peers == ROWS_MAX
    assert len(board.losses) == len(board.accuracies) == HISTORY_MAX
    assert list(board.warnings) == [f"fox: text {2 * ROWS_MAX - back}" for back in range(WARNINGS_MAX, 0, -1)]


def test_the_bar_shows_which_eighths_are_trained() -> None:
    assert slice_cells({}) == [True] * BAR_CELLS
    assert slice_cells({"a": SliceAxis(16, ((0, 8),))}) == HALVES
    assert slice_cells({"a": SliceAxis(16, ((0, 2), (14, 16)))}) == [True, *[False] * 6, True]


def test_the_bar_is_the_mean_of_the_axes() -> None:
    first, last = SliceAxis(8, ((0, 4),)), SliceAxis(8, ((4, 8),))
    assert slice_cells({"a": first, "b": first}) == HALVES
    assert slice_cells({"a": first, "b": last}) == [True] * BAR_CELLS
    assert slice_cells({"a": first, "b": first, "c": last}) == HALVES


def test_missing_blocks_are_missing_in_the_bar() -> None:
    first, second = SliceAxis(6, ((0, 3),)), SliceAxis(6, ((3, 6),))
    assert slice_cells({}, first) == HALVES
    assert slice_cells({}, second) == HALVES[::-1]
    assert slice_cells({"a": SliceAxis(8, ((0, 2),))}, second) == HALVES[::-1]


def test_a_row_keeps_the_blocks_of_its_last_round(round_line: Callable[..., RoundLine]) -> None:
    board = Board()
    for blocks in (SliceAxis(6, ((0, 3),)), None):
        board.feed("fox", round_line(slice={}, blocks=blocks))
        assert board.rows["fox"].blocks == blocks


@given(st.integers(1, 300), st.integers(0, 299), st.integers(1, 300))
def test_an_axis_of_any_size_gives_eight_cells(size: int, start: int, length: int) -> None:
    start %= size
    cells = slice_cells({"a": SliceAxis(size, ((start, min(size, start + length)),))})
    assert len(cells) == BAR_CELLS
    if start == 0 and length >= size:
        assert all(cells)
