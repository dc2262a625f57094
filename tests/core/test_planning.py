"""The planner: never better nor worse than trying everything, and one clear line when nothing fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.core import planning
from p2pfusion.core.chain_times import pace
from p2pfusion.core.planning import (
    OWNERS_MAX,
    RELAYS_MAX,
    Matrix,
    Order,
    Plan,
    Relay,
    Stage,
    _Kinds,
    owners_max,
    plan,
)  # fmt: skip
from p2pfusion.core.profiles import BlockCost, Profile
from p2pfusion.errors import TaskError

NUMBERS = st.integers(0, 9)


def cost(name: str, forward: float, backward: float, size: int, output: int = 1) -> BlockCost:
    return BlockCost(
        name=name,
        forward_s=forward,
        backward_s=backward,
        optimiser_s=0.0,
        output_bytes=output,
        kept_bytes=size,
        parameter_bytes=size,
        gradient_bytes=size,
        optimiser_bytes=size,
    )


def profile_of(rows: list[tuple[int, int, int, int]]) -> Profile:
    return Profile(batch=1, origin="a test", blocks=tuple(cost(f"b{n}", *row) for n, row in enumerate(rows)))


RELAYS = st.builds(
    Relay,
    name=st.just("r"),
    speed=st.sampled_from([0.5, 1.0, 2.0]),
    memory_bytes=st.none() | st.integers(0, 160),
    bytes_per_s=st.none() | st.sampled_from([0.5, 2.0]),
)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    blocks = draw(st.integers(1, 5))
    rows = draw(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=blocks + 2, max_size=blocks + 2))
    relays = draw(st.lists(RELAYS, min_size=1, max_size=4))
    return Order(
        profile=profile_of(rows),
        relays=tuple(relays),
        owners=draw(st.integers(1, 3)),
        mode=draw(st.sampled_from(["full", "paper"])),
        everybody=draw(st.booleans()) and len(relays) <= blocks,
    )


def splits(order: Order) -> list[tuple[Stage, ...]]:
    """All chains there are: any relays in any order, any cuts."""
    found = []
    counts = [len(order.relays)] if order.everybody else range(1, min(len(order.relays), order.blocks) + 1)
    for count in counts:
        for cuts in itertools.combinations(range(1, order.blocks), count - 1):
            ends = [0, *cuts, order.blocks]
            for chain in itertools.permutations(range(len(order.relays)), count):
                runs = zip(chain, ends, ends[1:], strict=False)
                found.append(tuple(Stage(relay=r, start=order.first + a, stop=order.first + b) for r, a, b in runs))
    return found


def judged(order: Order, stages: tuple[Stage, ...]) -> float:
    """Seconds per batch; infinite where a relay has no room."""
    leads = [0.0, 0.0]
    for stage in stages:
        relay = order.relays[stage.relay]
        if relay.memory_bytes is not None and order.memory_bytes(stage.start, stage.stop) > relay.memory_bytes:
            return math.inf
        times = relay.times(order.profile, stage.start, stage.stop)
        paces = [pace(work, times, order.mode) for work in (times.forward_s, times.backward_s)]
        leads = [max(lead, one) for lead, one in zip(leads, paces, strict=True)]
    return sum(leads)


@settings(max_examples=60, deadline=None)
@given(orders())
def test_it_agrees_with_trying_everything(order: Order) -> None:
    best = min(judged(order, stages) for stages in splits(order))
    if math.isinf(best):
        with pytest.raises(TaskError, match="nothing fits"):
            plan(order)
        return
    found = plan(order)
    assert found.full_s == pytest.approx(best)
    assert found.full_s == pytest.approx(judged(order, found.stages))
    assert [stage.start for stage in found.stages] + [order.first + order.blocks] == [order.first] + [
        stage.stop for stage in found.stages
    ]
    assert len({stage.relay for stage in found.stages}) == len(found.stages)


@settings(max_examples=25, deadline=None)
@given(orders())
def test_as_many_owners_as_it_says_and_not_one_more(order: Order) -> None:
    most = owners_max(order)
    for owners in range(1, order.owners + 1):
        some = replace(order, owners=owners)
        assert (owners <= most) == any(judged(some, stages) < math.inf for stages in splits(some))


def cuts(found: Plan) -> list[int]:
    """Where relays hand over to each other."""
    return [stage.start for stage in found.stages[1:]]


def even(blocks: int, **changes: int) -> Profile:
    return profile_of([(1, 2, changes.get("size", 1), changes.get("output", 1))] * (blocks + 2))


def test_equal_relays_share_equal_blocks_and_cost_next_to_nothing_to_plan() -> None:
    order = Order(profile=even(72), relays=tuple(Relay(name=f"r{n}") for n in range(36)), owners=1, everybody=True)
    found = plan(order)
    assert found.full_s == 6
    assert [stage.stop - stage.start for stage in found.stages] == [2] * 36


def test_a_relay_that_would_slow_the_chain_down_is_left_out_unless_everybody_has_to() -> None:
    relays = (Relay(name="fast"), Relay(name="slow", speed=0.1))
    order = Order(profile=even(4), relays=relays, owners=1)
    assert plan(order) == Plan(stages=(Stage(relay=0, start=1, stop=5),), lead_forward_s=4, lead_backward_s=8)
    both = plan(replace(order, everybody=True))
    assert sorted(stage.relay for stage in both.stages) == [0, 1]
    assert both.full_s == pytest.approx(30)


def test_among_equally_fast_splits_the_fullest_relay_holds_least() -> None:
    rows = [(1, 1, 1, 0), (5, 5, 1, 0), (0, 0, 9, 0), (0, 0, 9, 0), (5, 5, 1, 0), (1, 1, 1, 0)]
    found = plan(Order(profile=profile_of(rows), relays=(Relay(name="a"), Relay(name="b")), owners=1))
    assert cuts(found) == [3]


def test_a_slow_link_moves_the_cut_to_where_little_passes() -> None:
    rows = [(1, 1, 0, 1), (2, 2, 0, 100), (2, 2, 0, 100), (2, 2, 0, 1), (2, 2, 0, 1), (1, 1, 0, 1)]
    relays = (Relay(name="a", bytes_per_s=10), Relay(name="b", bytes_per_s=10))
    order = Order(profile=profile_of(rows), relays=relays, owners=1)
    assert cuts(plan(order)) == [4]
    assert cuts(plan(replace(order, mode="paper"))) == [3]


def test_what_is_short_is_said_with_how_much_and_a_way_out() -> None:
    profile = even(2, size=10_000_000, output=0)
    relays = (Relay(name="otter", memory_bytes=100_000_000), Relay(name="wren", memory_bytes=90_000_000))
    with pytest.raises(TaskError) as caught:
        plan(Order(profile=profile, relays=relays, owners=3))
    assert str(caught.value) == (
        "plan: nothing fits: in the best split wren lacks 80.0 MB: b1 for 3 owners takes 170.0 MB and it has 90.0 MB; "
        "take 1 owner at most, or add relays or memory"
    )
    with pytest.raises(
        TaskError, match="not even one owner fits: let owners keep more blocks, or add relays or memory"
    ):
        plan(Order(profile=profile, relays=(Relay(name="tiny", memory_bytes=1000),), owners=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first": 2, "last": 2}, "owners keep 2 \\+ 2 of 4 blocks, which leaves none"),
        ({"first": 0}, "at least the first block and the last"),
        ({"owners": 0}, "0 owners; must be 1 to"),
        ({"owners": OWNERS_MAX + 1}, f"{OWNERS_MAX + 1} owners"),
        ({"relays": ()}, f"0 relays; must be 1 to {RELAYS_MAX}"),
        ({"relays": (Relay(name="r"),) * (RELAYS_MAX + 1)}, f"{RELAYS_MAX + 1} relays"),
        ({"relays": (Relay(name="r"),) * 3, "everybody": True}, "3 relays for 2 blocks; leave 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes: dict[str, object], words: str) -> None:
    order = Order(profile=even(2), relays=(Relay(name="r"),), owners=1)
    with pytest.raises(TaskError, match=words):
        replace(order, **changes)  # type: ignore[arg-type]


def unlike(count: int, blocks: int) -> Order:
    relays = tuple(Relay(name=f"r{n}", speed=1 + n / 100) for n in range(count))
    return Order(profile=even(blocks), relays=relays, owners=1)


def test_too_many_combinations_are_refused_and_not_tried() -> None:
    for order in (unlike(20, 40), unlike(16, 5)):
        with pytest.raises(TaskError, match="too many combinations"):
            plan(order)
        with pytest.raises(TaskError, match="too many combinations"):
            owners_max(order)


@pytest.mark.parametrize(("relays", "blocks", "states"), [(12, 3, 299), (5, 9, 32), (3, 1, 4)])
def test_combinations_are_searched_up_to_the_bound_and_not_beyond(
    relays: int, blocks: int, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 relays for 3 blocks there are 1 + 12 + 66 + 220 choices."""
    order, turns = unlike(relays, blocks), states * relays
    for name, most in (("TURNS_MAX", turns), ("WORK_MAX", turns * (blocks + 1) ** 2)):
        monkeypatch.setattr(planning, name, most)
        assert len(plan(order).stages) == min(relays, blocks)
        monkeypatch.setattr(planning, name, most - 1)
        with pytest.raises(TaskError, match=f"{relays} different kinds of relays and {blocks} blocks are too many"):
            plan(order)
        monkeypatch.undo()


def test_more_relays_than_blocks_cost_no_states() -> None:
    """Twenty for one block: the best of them, from 21 states and not 2^20."""
    found = plan(unlike(20, 1))
    assert found.stages == (Stage(relay=19, start=1, stop=2),)
    assert len(plan(unlike(18, 2)).stages) == 2


def test_among_equally_good_relays_the_first_is_taken() -> None:
    relays = (Relay(name="a"), Relay(name="b", memory_bytes=99))
    assert plan(Order(profile=even(1), relays=relays, owners=1)).stages == (Stage(relay=0, start=1, stop=2),)


def test_whether_all_owners_find_room_takes_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    search = _Kinds.search

    def counted(kinds: _Kinds, *given: Sequence[Matrix]) -> object:
        asked.append(kinds.order.owners)
        return search(kinds, *given)

    monkeypatch.setattr(_Kinds, "search", counted)
    assert owners_max(replace(unlike(2, 4), owners=OWNERS_MAX)) == OWNERS_MAX
    assert asked == [OWNERS_MAX]
