"""Where to cut a network into stages, and which relay takes which: exact, for relays that all differ.

Owners choose the first and the last cut. The blocks between go to relays in consecutive runs, at least one block each,
so that `max forward + max backward` is least, the seconds a batch takes in a full chain, while every relay can hold its
stage for all owners. Instead of an integer program this walks the few pairs (largest forward, largest backward) that no
other pair beats; each comes from a dynamic program over (relays used, blocks placed) that minimises one maximum under a
bound on the other. Relays that are alike count as one kind, so 36 equal ones are 37 states and not 2^36; and no state
uses more relays than there are blocks.

Knows profiles and numbers; no peers, no network, no torch. Source: PAPERS.md 3.4 (objective and constraints); ours:
the method, links, leaving relays out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pfusion.core.chain_times import RelayTimes
from p2pfusion.core.profiles import Profile, ProfileMode
from p2pfusion.errors import TaskError

Matrix = npt.NDArray[Any]
"""[start, stop] over the places between middle blocks."""
State = tuple[int, ...]
"""How many relays of each kind are used."""
TURNS_MAX = 50_000
"""States times kinds of one search, for each may be a turn of Python. Twelve relays that all differ are just within it;
36 that are alike, or twenty for three blocks, far within."""
WORK_MAX = 100_000_000
"""Turns times pairs of places: matrix entries of one search. Near both bounds (twelve relays, forty blocks) a search
takes a third of a second and a plan some dozens of them; beyond one of them it could be minutes."""
RELAYS_MAX = 64
"""In one plan; a longer chain waits for its own links."""
OWNERS_MAX = 1024
"""As many as a swarm has peers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A device that could hold a stage. `speed`: how many times as fast as the profile's device.

    `memory_bytes` and `bytes_per_s` (of its link, each way) are None where they do not limit.
    """

    name: str
    speed: float = 1.0
    memory_bytes: int | None = None
    bytes_per_s: float | None = None

    def times(self, profile: Profile, start: int, stop: int) -> RelayTimes:
        """Seconds of one batch in blocks `start` to `stop - 1` here."""
        link = (lambda size: size / self.bytes_per_s) if self.bytes_per_s else (lambda size: 0.0)
        return RelayTimes(
            forward_s=profile.forward_s(start, stop) / self.speed,
            backward_s=profile.backward_s(start, stop) / self.speed,
            in_s=link(profile.output_bytes(start)),
            out_s=link(profile.output_bytes(stop)),
            step_s=profile.optimiser_s(start, stop) / self.speed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be planned: `first` and `last` blocks stay with each of `owners` owners, the rest goes to relays.

    `everybody`: every relay gets a stage, as in the paper; else those that would slow the chain down are left out.
    Raises `TaskError` for numbers that leave no block or relay.
    """

    profile: Profile
    relays: tuple[Relay, ...]
    owners: int
    first: int = 1
    last: int = 1
    mode: ProfileMode = "full"
    everybody: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.relays) <= RELAYS_MAX:
            raise TaskError(f"plan: {len(self.relays)} relays; must be 1 to {RELAYS_MAX}")
        if not 1 <= self.owners <= OWNERS_MAX:
            raise TaskError(f"plan: {self.owners} owners; must be 1 to {OWNERS_MAX}")
        if self.first < 1 or self.last < 1:
            raise TaskError(
                "plan: an owner keeps at least the first block and the last, or inputs or labels would leave"
            )
        if self.blocks < 1:
            have = len(self.profile.blocks)
            raise TaskError(
                f"plan: owners keep {self.first} + {self.last} of {have} blocks, which leaves none for a relay; let "
                f"them keep fewer, or cut the model into more blocks"
            )
        if self.everybody and len(self.relays) > self.blocks:
            raise TaskError(f"plan: {len(self.relays)} relays for {self.blocks} blocks; leave {self._spare} relays out")

    @property
    def blocks(self) -> int:
        """How many go to relays."""
        return len(self.profile.blocks) - self.first - self.last

    @property
    def _spare(self) -> int:
        return len(self.relays) - self.blocks

    def memory_bytes(self, start: int, stop: int) -> int:
        """What a relay needs for that stage of all owners."""
        return self.profile.memory_bytes(start, stop, self.owners, self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks `start` to `stop - 1` of the profile at `relay`, an index into the order's relays."""

    relay: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages in the order of the chain, all middle blocks in them, no relay twice. `full_s`: seconds per batch."""

    stages: tuple[Stage, ...]
    lead_forward_s: float
    lead_backward_s: float

    @property
    def full_s(self) -> float:
        """`T_full`."""
        return self.lead_forward_s + self.lead_backward_s


def plan(order: Order) -> Plan:
    """The fastest split; among equally fast ones one whose fullest relay holds least.

    Raises `TaskError` when nothing fits, saying what is short by how much, or when there are too many combinations.
    """
    kinds = _Kinds.of(order)
    fits = kinds.fits()
    least = kinds.search(kinds.backward, fits)
    if least is None:
        raise TaskError(_shortage(order, kinds))
    best: tuple[float, float, float] | None = None
    bound = math.inf
    while True:
        under = [room & (back < bound) for room, back in zip(fits, kinds.backward, strict=True)]
        forward = kinds.search(kinds.forward, under)
        if forward is None or (best is not None and forward[0] + least[0] >= best[0]):
            break
        under = [room & (ahead <= forward[0]) for room, ahead in zip(fits, kinds.forward, strict=True)]
        backward = kinds.search(kinds.backward, under)
        assert backward is not None, "the split that gave the forward maximum is among them"
        if best is None or forward[0] + backward[0] < best[0]:
            best = (forward[0] + backward[0], forward[0], backward[0])
        # Forward only grows from here on, so a better pair must make up for it.
        bound = min(backward[0], best[0] - forward[0])
    assert best is not None, "something fits, so the first turn found a pair"
    _, ahead_s, back_s = best
    every = zip(fits, kinds.forward, kinds.backward, strict=True)
    chain = kinds.search(kinds.memory, [room & (f <= ahead_s) & (b <= back_s) for room, f, b in every])
    assert chain is not None, "the best pair was found on a split"
    return Plan(stages=kinds.named(chain[1]), lead_forward_s=ahead_s, lead_backward_s=back_s)


def owners_max(order: Order) -> int:
    """How many owners the relays could hold at most, up to the order's number; 0 if not even one."""
    low, high, middle = 0, order.owners, order.owners
    while low < high:
        kinds = _Kinds.of(replace(order, owners=middle))
        low, high = (middle, high) if kinds.search(kinds.memory, kinds.fits()) else (low, middle - 1)
        middle = (low + high + 1) // 2
    return low


def _shortage(order: Order, kinds: _Kinds) -> str:
    lacking = kinds.search(kinds.lacking, [np.isfinite(cost) for cost in kinds.lacking])
    assert lacking is not None, "without limits every split is allowed"
    short, chain = lacking
    worst = max(kinds.named(chain), key=lambda stage: _lack(order, stage))
    relay, names = order.relays[worst.relay], order.profile.names[worst.start : worst.stop]
    held = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    most = owners_max(order)
    owners = "1 owner" if order.owners == 1 else f"{order.owners} owners"
    fix = (
        f"take {most} owner{'s' if most > 1 else ''} at most"
        if most
        else "not even one owner fits: let owners keep more blocks"
    )
    return (
        f"plan: nothing fits: in the best split {relay.name} lacks {short / 1e6:.1f} MB: {held} for {owners} takes "
        f"{order.memory_bytes(worst.start, worst.stop) / 1e6:.1f} MB and it has "
        f"{(relay.memory_bytes or 0) / 1e6:.1f} MB; {fix}, or add relays or memory"
    )


def _lack(order: Order, stage: Stage) -> float:
    memory = order.relays[stage.relay].memory_bytes
    return -math.inf if memory is None else order.memory_bytes(stage.start, stage.stop) - memory


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kinds:
    """Relays that are alike, as one: who they are, and by (start, stop) what a stage would cost one of them.

    An entry with start >= stop is infinite: no stage.
    """

    order: Order
    members: tuple[tuple[int, ...], ...]
    forward: tuple[Matrix, ...]
    backward: tuple[Matrix, ...]
    memory: tuple[Matrix, ...]

    @classmethod
    def of(cls, order: Order) -> _Kinds:
        groups: dict[Relay, list[int]] = {}
        for number, relay in enumerate(order.relays):
            groups.setdefault(replace(relay, name=""), []).append(number)
        turns = _states_of([len(members) for members in groups.values()], order.blocks) * len(groups)
        if turns > TURNS_MAX or turns * (order.blocks + 1) ** 2 > WORK_MAX:
            raise TaskError(
                f"plan: {len(groups)} different kinds of relays and {order.blocks} blocks are too many combinations to "
                f"search them all; round the relays' figures so that some are alike, or take fewer"
            )
        tables = _tables(order)
        costs = [_costs(order, relay, tables) for relay in groups]
        return cls(
            order=order,
            members=tuple(tuple(members) for members in groups.values()),
            forward=tuple(cost[0] for cost in costs),
            backward=tuple(cost[1] for cost in costs),
            memory=(tables[2],) * len(groups),
        )

    @property
    def lacking(self) -> tuple[Matrix, ...]:
        """Bytes that a relay lacks for a stage; negative where it has more."""
        limits = (self.order.relays[members[0]].memory_bytes for members in self.members)
        return tuple(need - (1e18 if limit is None else limit) for need, limit in zip(self.memory, limits, strict=True))

    def fits(self) -> list[Matrix]:
        """Which stages a relay can hold."""
        return [lack <= 0 for lack in self.lacking]

    def search(
        self, costs: Sequence[Matrix], allowed: Sequence[Matrix]
    ) -> tuple[float, list[tuple[int, int, int]]] | None:
        """The chain whose largest cost is least, as (that cost, [(kind, start, stop), ...]); None if there is none."""
        blocks, states = self.order.blocks, self._states()
        usable = [np.where(may, cost, np.inf) for cost, may in zip(costs, allowed, strict=True)]
        best = {(0,) * len(self.members): np.where(np.arange(blocks + 1) == 0, -np.inf, np.inf)}
        for state in states[1:]:
            paths = [(best[before][:, None], usable[kind]) for kind, before in _before(state)]
            best[state] = np.min([np.maximum(*path).min(axis=0) for path in paths], axis=0)
        ends = states[-1:] if self.order.everybody else states[1:]
        # Where several are as good, few relays, and those that came first.
        state = min(ends, key=lambda one: (best[one][blocks], sum(one), one[::-1]))
        largest, stop = float(best[state][blocks]), blocks
        if not largest < np.inf:
            return None
        chain = []
        while stop:
            kind, before, start = next(
                (kind, before, int(start))
                for kind, before in _before(state)
                for start in np.flatnonzero(np.maximum(best[before], usable[kind][:, stop]) == best[state][stop])[:1]
            )
            chain.append((kind, start, stop))
            state, stop = before, start
        return largest, chain[::-1]

    def _states(self) -> list[State]:
        """All that could be, each behind those it may follow: with no more relays than blocks, for none stays idle."""
        found: list[State] = [()]
        for members in self.members:
            spare = [(state, min(len(members), self.order.blocks - sum(state))) for state in found]
            found = [(*state, count) for state, most in spare for count in range(most + 1)]
        return found

    def named(self, chain: Sequence[tuple[int, int, int]]) -> tuple[Stage, ...]:
        """The chain with a relay of each kind, those that came first first."""
        waiting = [iter(members) for members in self.members]
        first = self.order.first
        return tuple(Stage(relay=next(waiting[kind]), start=first + a, stop=first + b) for kind, a, b in chain)


def _states_of(sizes: Sequence[int], blocks: int) -> int:
    """How many states there are with so many relays of each kind, found without making them."""
    by_used = [1] + [0] * blocks
    for size in sizes:
        by_used = [sum(by_used[max(0, used - size) : used + 1]) for used in range(blocks + 1)]
    return sum(by_used)


def _before(state: State) -> Iterator[tuple[int, State]]:
    """The states with one relay less, each with the kind of that relay."""
    for kind, count in enumerate(state):
        if count:
            yield kind, (*state[:kind], count - 1, *state[kind + 1 :])


def _tables(order: Order) -> tuple[Matrix, Matrix, Matrix]:
    """By (start, stop) among the middle blocks: seconds forward and backward on the profile's device, and bytes."""
    size, profile = order.blocks + 1, order.profile
    forward, backward, memory = (np.full((size, size), np.inf) for _ in range(3))
    for start in range(size):
        for stop in range(start + 1, size):
            a, b = order.first + start, order.first + stop
            forward[start, stop], backward[start, stop] = profile.forward_s(a, b), profile.backward_s(a, b)
            memory[start, stop] = order.memory_bytes(a, b)
    return forward, backward, memory


def _costs(order: Order, relay: Relay, tables: tuple[Matrix, Matrix, Matrix]) -> tuple[Matrix, Matrix]:
    """`chain_times.pace` of a relay forward and backward, for all stages at once."""
    forward, backward = tables[0] / relay.speed, tables[1] / relay.speed
    if order.mode == "paper" or not relay.bytes_per_s:
        return forward, backward
    places = range(order.first, order.first + order.blocks + 1)
    link = np.array([order.profile.output_bytes(place) / relay.bytes_per_s for place in places])
    slower = np.maximum(link[:, None], link[None, :])
    return np.maximum(forward, slower), np.maximum(backward, slower)
