"""A round played task by task: where it must equal the formulas, where it may not be faster, and a case by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core import playing
from p2pfusion.core.chain_times import ChainTimes, OwnerTimes, RelayTimes
from p2pfusion.core.playing import round_s

OWNER = OwnerTimes(first_forward_s=1.0, first_backward_s=1.0, last_forward_s=0.25, last_backward_s=0.25, to_chain_s=0.5)
seconds = st.integers(1, 8).map(lambda quarter: quarter / 4)
relays = st.builds(
    lambda forward, backward, step: RelayTimes(forward_s=forward, backward_s=backward + step, step_s=step),
    seconds,
    seconds,
    seconds,
)


def chain(owners: int, *those: RelayTimes) -> ChainTimes:
    return ChainTimes(owners=(OWNER,) * owners, relays=those)


@given(st.lists(relays, min_size=1, max_size=4), st.integers(1, 5))
def test_an_owner_alone_waits_for_nobody_but_for_the_steps_of_its_own_batches(
    those: list[RelayTimes], batches: int
) -> None:
    times = chain(1, *(replace(one, backward_s=one.backward_s - one.step_s, step_s=0.0) for one in those))
    assert round_s(times, batches) == pytest.approx(batches * times.loop_s)
    with_steps = round_s(chain(1, *those), batches)
    assert round_s(times, batches) - 1e-9 <= with_steps <= batches * chain(1, *those).loop_s + 1e-9


@given(st.lists(relays, min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 5))
def test_no_relay_does_more_than_it_can(those: list[RelayTimes], owners: int, batches: int) -> None:
    """The last step of a relay may still be due when the last owner is done; everything else is not."""
    times = chain(owners, *those)
    busiest_s = max(owners * batches * (one.forward_s + one.backward_s) - owners * one.step_s for one in those)
    assert round_s(times, batches) >= max(busiest_s, batches * round_s(chain(1, *those), 1)) - 1e-9


def test_a_full_chain_takes_what_the_formula_says() -> None:
    times = chain(12, RelayTimes(forward_s=1.0, backward_s=2.0), RelayTimes(forward_s=1.0, backward_s=2.0))
    assert round_s(times, 20) == pytest.approx(times.all_s(20), rel=0.02)


def test_two_owners_that_meet_by_hand() -> None:
    """One relay, 1 forward and 2 back, owners without own time. A: forward 0-1, back 1-3. B comes at 0 too: forward
    3-4, for the way back goes first, back 4-6; A again forward 6-7 because it waits for B's way back.
    """
    times = ChainTimes(owners=(OwnerTimes(first_forward_s=0.0, first_backward_s=0.0),) * 2,
                       relays=(RelayTimes(forward_s=1.0, backward_s=2.0),))  # fmt: skip
    assert round_s(times, 1) == 6.0
    assert round_s(times, 2) == 12.0


def test_a_step_is_made_while_nobody_waits() -> None:
    free = RelayTimes(forward_s=1.0, backward_s=2.0, step_s=1.0)
    assert round_s(chain(1, free), 2) == pytest.approx(2 * chain(1, replace(free, backward_s=1.0, step_s=0.0)).loop_s)


def test_beyond_the_limit_the_formula_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    times = chain(2, RelayTimes(forward_s=1.0, backward_s=2.0), RelayTimes(forward_s=1.0, backward_s=2.0))
    played = round_s(times, 3)
    monkeypatch.setattr(playing, "TASKS_MAX", 2 * 3 * 2 * 2)
    assert round_s(times, 3) == played
    monkeypatch.setattr(playing, "TASKS_MAX", 2 * 3 * 2 * 2 - 1)
    assert round_s(times, 3) == times.all_s(3) != played
    assert round_s(replace(times, mode="paper"), 1) == replace(times, mode="paper").all_s(1)


def test_one_owner_of_micro_batches_by_hand() -> None:
    """Two relays, 2 forward and 4 back, no time of the owner's own. Whole: 2 + 2 + 4 + 4. In two: forward 0-1 and 1-2,
    then 1-2 at the second; its way back 2-4, the other forward 4-5 behind it, back 5-7; at the first back 4-6 and 7-9.
    """
    relay = RelayTimes(forward_s=2.0, backward_s=4.0)
    times = ChainTimes(owners=(OwnerTimes(first_forward_s=0.0, first_backward_s=0.0),), relays=(relay, relay))
    assert round_s(times, 1) == 12.0
    assert round_s(times, 1, micro_batches=2) == 9.0
    assert round_s(times, 3, micro_batches=2) == 27.0


@given(st.lists(relays, min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 6))
def test_micro_batches_do_not_make_a_relay_faster(those: list[RelayTimes], batches: int, parts: int) -> None:
    times = chain(1, *those)
    busiest_s = max(batches * (one.forward_s + one.backward_s) - one.step_s for one in those)
    assert busiest_s - 1e-9 <= round_s(times, batches, parts) <= round_s(times, batches) + 1e-9


def test_micro_batches_do_not_make_a_link_or_an_owner_faster() -> None:
    """One relay without time of its own: what is left is the owner's stages, and its link, four times a batch."""
    relay = RelayTimes(forward_s=0.0, backward_s=0.0)
    far = OwnerTimes(first_forward_s=0.0, first_backward_s=0.0, to_chain_s=8.0)
    assert round_s(ChainTimes(owners=(far,), relays=(relay,)), 1, micro_batches=4) == pytest.approx(8.0 + 2.0)
    slow = OwnerTimes(first_forward_s=4.0, first_backward_s=4.0, last_forward_s=2.0, last_backward_s=2.0)
    for parts in (1, 2, 4):
        assert round_s(ChainTimes(owners=(slow,), relays=(relay,)), 1, parts) >= 12.0 - 1e-9
