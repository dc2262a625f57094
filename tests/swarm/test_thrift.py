"""Which codec is chosen when the user leaves it to the node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import NodeConfig
from p2pfusion.errors import ConfigError
from p2pfusion.swarm.thrift import EXACT_BYTES_MAX, FAST_BYTES_PER_S, LADDER, TRANSFERS_KEPT_MAX, Choice, Link, Thrift

MILLION = 1_000_000


def after_rounds(round_s: float = 10.0, bytes_per_s: float | None = None, **config: object) -> Thrift:
    """Four rounds of that length have passed; what came over the link came at that rate."""
    thrift = Thrift(NodeConfig(**config))  # type: ignore[arg-type]
    for number in range(5):
        thrift.published(number * round_s)
    if bytes_per_s is not None:
        thrift.link.carried(0.0, 1.0, int(bytes_per_s))
    return thrift


def test_while_nothing_bounds_it_the_richest():
    assert Thrift(NodeConfig()).choose(MILLION, 7, 0, 0.0) == LADDER[0] == Choice("int8")
    assert after_rounds().choose(MILLION, 7, 0, 40.0).codec == "int8"
    assert after_rounds(bytes_per_s=1e6).choose(MILLION, 0, 0, 40.0).codec == "int8", "alone nobody is sent anything"


def test_what_is_tiny_goes_as_it_is():
    assert Thrift(NodeConfig()).choose(EXACT_BYTES_MAX // 4, 7, 0, 0.0).codec == "fp32"
    assert Thrift(NodeConfig()).choose(EXACT_BYTES_MAX // 4 + 1, 7, 0, 0.0).codec == "int8"


def test_what_the_user_names_is_taken_whatever_the_link():
    thrift = after_rounds(bytes_per_s=20_000, codec="topk", codec_density=0.2)
    assert thrift.choose(MILLION, 7, 0, 40.0) == Choice("topk", 0.2)


@pytest.mark.parametrize(
    ("bytes_per_s", "chosen"),
    [
        (5e6, Choice("int8")),  # half of 50 MB a round among 7: 3.6 MB each
        (5e5, Choice("topk", 0.05)),
        (1.2e5, Choice("stc", 0.05)),
        (2e4, Choice("stc", 0.01)),
        (1e3, Choice("stc", 0.01)),  # nothing barer
    ],
)
def test_a_slow_link_takes_less(bytes_per_s, chosen):
    thrift = after_rounds()
    thrift.link.carried(0.0, 100.0, int(100 * bytes_per_s))
    assert thrift.choose(MILLION, 7, 0, 40.0) == chosen


def test_the_users_limit_counts_as_a_link():
    assert after_rounds(limit_bytes_per_s=5e6).choose(MILLION, 7, 0, 40.0).codec == "int8"
    assert after_rounds(limit_bytes_per_s=7e4).choose(MILLION, 7, 0, 40.0) == Choice("stc", 0.05)


def test_a_link_that_runs_at_the_limit_is_not_counted_twice():
    limited = after_rounds(limit_bytes_per_s=1e6)
    room_bytes = limited.room_bytes(7, 0, 40.0)
    limited.link.carried(0.0, 10.0, int(0.9 * 10e6))
    assert limited.room_bytes(7, 0, 40.0) == room_bytes
    limited.link.carried(10.0, 1000.0, 10**6)
    assert limited.room_bytes(7, 0, 40.0) < room_bytes


def test_a_budget_is_spread_over_rounds_and_over_both_directions():
    thrift = after_rounds(budget_bytes_per_h=360 * MILLION)  # 1 MB a round of 10 s, both ways
    saved = thrift.room_bytes(5, 0, 40.0)
    spent = thrift.room_bytes(5, 4 * MILLION, 40.0)
    assert spent == pytest.approx(MILLION / 10), "what was due so far is spent: a round's share for each of ten copies"
    assert saved > spent
    assert thrift.room_bytes(5, 20 * MILLION, 40.0) == 0.0


def test_with_a_budget_the_first_round_is_careful():
    assert Thrift(NodeConfig(budget_bytes_per_h=1e9)).choose(MILLION, 5, 0, 0.0).codec == "stc"
    assert Thrift(NodeConfig(budget_bytes_per_h=1e9)).choose(MILLION, 0, 0, 0.0).codec == "int8", (
        "alone it costs nothing"
    )


def test_a_budget_that_cannot_be_kept_is_told_with_the_rate():
    thrift = after_rounds(budget_bytes_per_h=10 * MILLION)  # 28 kB a round of 10 s, five others: 2.8 kB each
    least = LADDER[-1].bytes_of(MILLION) * 2 * 5 * 360
    assert thrift.beyond_budget(MILLION, 5, 0, 40.0) == pytest.approx(least)
    assert thrift.beyond_budget(10_000, 5, 0, 40.0) is None
    moved = 36 * MILLION  # by others, say
    assert thrift.beyond_budget(10_000, 5, MILLION, 0.0) == pytest.approx(moved)
    assert after_rounds(budget_bytes_per_h=10 * MILLION, codec="fp32").beyond_budget(10_000, 5, 0, 40.0) is not None
    assert Thrift(NodeConfig(budget_bytes_per_h=1.0)).beyond_budget(MILLION, 5, MILLION, 9.0) is None, "too early"
    assert after_rounds().beyond_budget(MILLION, 5, 10**12, 40.0) is None


def test_a_joiners_snapshot_is_no_rate():
    """It comes once, before the first contribution; only what is moved after that goes on hour by hour."""
    late, early = (Thrift(NodeConfig(budget_bytes_per_h=10 * MILLION)) for _ in range(2))
    for number in range(4):
        late.published(number * 10.0, 36 * MILLION)
        early.published(number * 10.0)
    assert late.beyond_budget(10_000, 5, 37 * MILLION, 30.0) == early.beyond_budget(10_000, 5, MILLION, 30.0)
    assert late.beyond_budget(10_000, 5, 36 * MILLION, 30.0) is None


def test_it_does_not_go_to_and_fro():
    thrift = after_rounds()
    fits = 2 * 7 * LADDER[2].bytes_of(MILLION) / 10.0
    thrift.link.carried(0.0, 1000.0, int(1000 * fits))
    assert thrift.choose(MILLION, 7, 0, 40.0) == LADDER[2]
    for better, chosen in ((4.2, LADDER[2]), (1.2, LADDER[2]), (60.0, LADDER[0])):
        again = after_rounds()
        again._last = thrift._last
        again.link.carried(0.0, 1000.0, int(1000 * fits * better))
        assert again.choose(MILLION, 7, 0, 40.0) == chosen


def test_the_lossless_stage_is_left_out_on_a_fast_link():
    assert not after_rounds(bytes_per_s=FAST_BYTES_PER_S * 1.1).choose(MILLION, 3, 0, 40.0).lossless
    assert after_rounds(bytes_per_s=FAST_BYTES_PER_S * 0.9).choose(MILLION, 3, 0, 40.0).lossless


def test_transfers_that_overlap_share_the_link():
    link = Link()
    for from_s, to_s in ((0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (1.5, 1.6)):
        link.carried(from_s, to_s, MILLION)
    assert link.bytes_per_s == pytest.approx(4 * MILLION / 4.0)


def test_small_transfers_measure_nothing_and_old_ones_are_forgotten():
    link = Link()
    link.carried(0.0, 1.0, 1000)
    assert link.bytes_per_s is None
    link.carried(0.0, 100.0, MILLION)
    for number in range(TRANSFERS_KEPT_MAX):
        link.carried(200.0 + number, 201.0 + number, MILLION)
    assert link.bytes_per_s == pytest.approx(MILLION)


@given(room=st.floats(1.0, 1e9), elements=st.integers(2000, 10**8))
def test_what_is_chosen_fits_or_is_the_barest(room, elements):
    thrift = Thrift(NodeConfig())
    thrift.room_bytes = lambda *_: room  # type: ignore[method-assign]
    choice = thrift.choose(elements, 3, 0, 0.0)
    assert choice == LADDER[-1] or choice.bytes_of(elements) <= room


def test_the_ladder_goes_down():
    sizes = [choice.bytes_of(10 * MILLION) for choice in LADDER]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": "zip"},
        {"codec_density": 0.0},
        {"codec_density": 1.1},
        {"budget_bytes_per_h": 0.0},
        {"limit_bytes_per_s": -1.0},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NodeConfig(**wrong)
