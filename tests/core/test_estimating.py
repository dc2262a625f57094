"""The forecast beside a simulation of every single task: relays that take tasks as they come, one batch per owner.

The simulation knows nothing of the formulas. A relay does forward and backward passes in the order in which they come,
hands a gradient on before its optimiser step, and owners send the next batch when the last one is back.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from pathlib import Path

import pytest

from p2pfusion.core.estimating import chain_of, check_owner, one_hop, owner_bytes, side_by_side, side_by_side_s
from p2pfusion.core.planning import Order, Relay, Stage, plan
from p2pfusion.core.profiles import from_json
from p2pfusion.errors import TaskError

PROFILE = from_json((Path(__file__).parents[2] / "docs" / "resnet18.profile.json").read_text())
BATCHES = 20
Task = tuple[int, str]


class Events:
    """Seconds until all owners are done, task by task."""

    def __init__(self, order: Order, stages: tuple[Stage, ...], owner: Relay) -> None:
        times = chain_of(order, stages, owner)
        self.own, self.relays, self.owners = times.owners[0], times.relays, order.owners
        self.hops = [max(a.out_s, b.in_s) for a, b in itertools.pairwise(self.relays)]
        parts = [(order.relays[stage.relay].speed, PROFILE.blocks[stage.start : stage.stop]) for stage in stages]
        self.optimiser = [sum(block.optimiser_s for block in blocks) / speed for speed, blocks in parts]
        self.heap: list[tuple[float, int, tuple[int, int, str]]] = []
        self.count = itertools.count()
        self.queues: list[deque[Task]] = [deque() for _ in self.relays]
        self.free_s = [0.0] * len(self.relays)

    def at(self, now: float, place: int, owner: int, kind: str) -> None:
        heapq.heappush(self.heap, (now, next(self.count), (place, owner, kind)))

    def begin(self, now: float, owner: int) -> None:
        self.at(now + self.own.first_forward_s + self.own.to_chain_s, 0, owner, "forward")

    def work(self, place: int, kind: str) -> float:
        relay, step = self.relays[place], self.optimiser[place]
        return {"forward": relay.forward_s, "backward": relay.backward_s - step, "step": step}[kind]

    def run(self) -> float:
        left, end = [BATCHES] * self.owners, 0.0
        for owner in range(self.owners):
            self.begin(0.0, owner)
        while self.heap:
            now, _, (place, owner, kind) = heapq.heappop(self.heap)
            if kind in ("forward", "backward"):
                self.queues[place].append((owner, kind))
            elif kind == "sent":
                end = max(end, now)
                left[owner] -= 1
                if left[owner]:
                    self.begin(now, owner)
            self.next(now, place)
        return end

    def next(self, now: float, place: int) -> None:
        """The relay's next task, if it is free; what follows from it is put into the heap at once."""
        while self.queues[place] and self.free_s[place] <= now + 1e-12:
            owner, kind = self.queues[place].popleft()
            done = now + self.work(place, kind)
            self.free_s[place] = done + (self.work(place, "step") if kind == "backward" else 0.0)
            self.pass_on(done, place, owner, kind)
            self.at(self.free_s[place], place, owner, "free")

    def pass_on(self, now: float, place: int, owner: int, kind: str) -> None:
        last = len(self.relays) - 1
        if kind == "forward" and place < last:
            self.at(now + self.hops[place], place + 1, owner, "forward")
        elif kind == "forward":
            turn = self.own.last_forward_s + self.own.last_backward_s + 2 * self.own.from_chain_s
            self.at(now + turn, last, owner, "backward")
        elif place:
            self.at(now + self.hops[place - 1], place - 1, owner, "backward")
        else:
            self.at(now + self.own.to_chain_s + self.own.first_backward_s, 0, owner, "sent")


def errors(owners: tuple[int, ...], link: float | None) -> list[float]:
    """(forecast - simulation) / simulation, for chains of one to three equal relays."""
    found = []
    owner = Relay(name="owner", speed=0.5, bytes_per_s=link and link / 10)
    for hops, count in itertools.product((1, 2, 3), owners):
        relays = tuple(Relay(name=f"r{place}", speed=2.0, bytes_per_s=link) for place in range(hops))
        order = Order(profile=PROFILE, relays=relays, owners=count, everybody=True)
        stages = plan(order).stages
        real = Events(order, stages, owner).run()
        found.append((chain_of(order, stages, owner).all_s(BATCHES) - real) / real)
    return found


@pytest.mark.parametrize("link", [None, 125e6], ids=["no links", "1 Gbit/s"])
def test_the_forecast_is_within_three_percent_of_every_single_task_on_average(link: float | None) -> None:
    found = errors((2, 4, 6, 10, 20, 50), link)
    assert sum(abs(error) for error in found) / len(found) < 0.03
    assert max(abs(error) for error in found) < 0.1


def test_a_full_chain_is_never_slower_than_its_forecast() -> None:
    """The slowest stage forward and the slowest back may be two relays; then neither is busy all the time."""
    found = errors((20, 50), None)
    assert min(found) > -1e-3
    assert max(found) < 0.05


def order(**changes: object) -> Order:
    relays = (Relay(name="slow", speed=0.5), Relay(name="fast", bytes_per_s=1e9))
    given: dict[str, object] = {"profile": PROFILE, "relays": relays, "owners": 3} | changes
    return Order(**given)  # type: ignore[arg-type]


def test_one_hop_is_the_fastest_relay_with_everything_whether_it_fits_or_not() -> None:
    assert one_hop(order()) == Stage(relay=1, start=1, stop=9)
    relays = (Relay(name="slow", speed=0.5), Relay(name="fast", memory_bytes=1))
    assert one_hop(order(relays=relays)).relay == 1


def test_an_owner_needs_one_copy_of_both_its_stages() -> None:
    need = PROFILE.memory_bytes(0, 1, 1) + PROFILE.memory_bytes(9, 10, 1)
    assert owner_bytes(order()) == need
    check_owner(order(), Relay(name="owner", memory_bytes=need))
    with pytest.raises(TaskError, match=r"an owner lacks 0.0 MB: its 1 \+ 1 blocks take"):
        check_owner(order(), Relay(name="owner", memory_bytes=need - 1))


def test_a_link_is_as_slow_as_its_slower_end() -> None:
    stages = plan(order(everybody=True)).stages
    slow = chain_of(order(), stages, Relay(name="owner", bytes_per_s=1e6)).owners[0]
    assert slow.to_chain_s == pytest.approx(PROFILE.output_bytes(1) / 1e6)
    alone = order(relays=(Relay(name="relay", bytes_per_s=1e6),))
    other = chain_of(alone, (Stage(relay=0, start=1, stop=9),), Relay(name="owner")).owners[0]
    assert other.to_chain_s == pytest.approx(PROFILE.output_bytes(1) / 1e6)
    assert other.from_chain_s == pytest.approx(PROFILE.output_bytes(9) / 1e6)


def test_side_by_side_is_as_good_as_any_distribution() -> None:
    def seconds(given: Order, counts: tuple[int, ...]) -> float:
        return side_by_side_s(given, counts, Relay(name="owner"), 5)

    relays = (Relay(name="a", speed=0.5), Relay(name="b", speed=2.0), Relay(name="c", memory_bytes=850_000_000))
    given = order(relays=relays, owners=7)
    counts = side_by_side(given)
    assert counts is not None
    rest = [(a, b, 7 - a - b) for a in range(8) for b in range(8 - a) if 7 - a - b <= 1]
    assert PROFILE.memory_bytes(1, 9, 2) < 850_000_000 < PROFILE.memory_bytes(1, 9, 3)
    rest += [(a, 5 - a, 2) for a in range(6)]
    assert seconds(given, counts) == pytest.approx(min(seconds(given, other) for other in rest))
    assert side_by_side(order(relays=relays[2:])) is None
