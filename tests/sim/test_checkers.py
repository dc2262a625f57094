"""The checkers: a sound run passes, and each planted fault is found, with node, round and moment in the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2pfusion.errors import InvariantViolation
from p2pfusion.node import PeerEvent
from p2pfusion.node.snapshots import hash_of
from p2pfusion.node.state import State
from p2pfusion.sim import checkers
from p2pfusion.sim.checkers import Checkers
from p2pfusion.sim.faults import Crash, Partition
from p2pfusion.sim.history import Published
from p2pfusion.sim.world import LinkModel, Scenario, World, simulate
from p2pfusion.store.memory import MemoryStore
from p2pfusion.swarm.ledger import Ledger
from tests.sim.learners import light_learner

CALM = Scenario(nodes=3, rounds=12, link=LinkModel(latency_s=0.005, jitter_s=0.005), until_s=200.0)
SPLIT = replace(CALM, nodes=4, rounds=40, partitions=(Partition(from_s=5.0, to_s=16.0, parts=2),))


def play(scenario: Scenario = CALM, watch=None, **options) -> World:
    """The world, after its end; rounds of about 0.4 s."""
    worlds: list[World] = []

    def keep(world: World, index: int) -> None:
        worlds[:] = [world]
        if watch is not None:
            watch(world, index)

    simulate(scenario, light_learner(cost_s=1.0), 1, watch=keep, **options)
    return worlds[0]


class Once:
    """A watch that meddles with node 1 once, when its tip has reached round 4."""

    def __init__(self, meddle) -> None:
        self.meddle = meddle
        self.is_done = False

    def __call__(self, world: World, index: int) -> None:
        if not self.is_done and index == 1 and world.nodes[1].state.ledger.tip.round >= 4:
            self.is_done = True
            self.meddle(world.nodes[1].state)


def spoil_model(state: State) -> None:
    state.replica.sealed = state.replica.sealed + np.float32(0.5)
    state.model_hash = hash_of(state.replica.sealed)


def lower_floor(state: State) -> None:
    state.ledger.__class__ = type("Fallen", (Ledger,), {"floor": property(lambda _: 1)})


def lower_incarnation(state: State) -> None:
    state.incarnation -= 1


def slander(state: State) -> None:
    accused, _ = state.membership.reports()[0]
    state.events.add(PeerEvent(accused.name, accused.peer.hex(), "dead"))


def test_nothing_is_said_of_a_sound_run():
    play(is_checked=True)


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (spoil_model, "holds another model than others on chain"),
        (lower_floor, "its floor fell from"),
        (lower_incarnation, "its incarnation fell from"),
    ],
)
def test_a_planted_fault_is_found_where_and_when_it_shows(meddle, said):
    with pytest.raises(InvariantViolation, match=rf"^at \d+\.\d+ virtual s, node-\d, tip \d+: {said}"):
        play(watch=Once(meddle))


def test_a_slander_is_found():
    with pytest.raises(InvariantViolation, match=r"node-1, tip \d+: holds node-\d for dead, which is up"):
        play(replace(CALM, rounds=60), watch=late(slander))


def late(meddle):
    """As `Once`, but when everybody has been within reach for long enough."""
    once = Once(meddle)

    def watch(world: World, index: int) -> None:
        if world.now_s > 2.5 * world.scenario.gossip.suspicion_s:
            once(world, index)

    return watch


def test_unchecked_nothing_is_found():
    assert play(watch=Once(lower_incarnation), is_checked=False).nodes


def test_a_hash_that_is_not_the_models_is_found():
    def lie(state: State) -> None:
        life = worlds[0].history.lives[1]
        state.model_hash = bytes(32)
        Checkers(worlds[0], worlds[0].history).moved(life, life.tip, life.tip)

    worlds: list[World] = []

    def watch(world: World, index: int) -> None:
        worlds[:] = [world]
        once(world, index)

    once = Once(lie)
    with pytest.raises(InvariantViolation, match="reports another model than it has"):
        play(watch=watch)


def test_a_switch_that_is_not_said_is_found(monkeypatch):
    warn = State.warn
    monkeypatch.setattr(State, "warn", lambda self, code, text: warn(self, code, text) if code != "switched" else None)
    with pytest.raises(InvariantViolation, match=r"left its chain 1 times and said so 0 times"):
        play(SPLIT)


def test_sealed_work_that_nobody_grafts_and_whose_author_is_gone_is_found(monkeypatch):
    monkeypatch.setattr(Ledger, "graft_due", lambda *_: None)
    gone = [Crash(node=1, at_s=16.5), Crash(node=3, at_s=16.5)]
    with pytest.raises(InvariantViolation, match=r"of node-\d was sealed in round \d+ and is lost"):
        play(replace(SPLIT, crashes=tuple(gone)))


def test_the_same_incarnation_again_is_found(monkeypatch):
    monkeypatch.setattr(MemoryStore, "save_identity", first_only(MemoryStore.save_identity))
    with pytest.raises(InvariantViolation, match="starts with incarnation"):
        play(
            replace(CALM, rounds=40, crashes=(Crash(node=1, at_s=4.0, back_s=6.0), Crash(node=1, at_s=9.0, back_s=9.5)))
        )


def first_only(save):
    """A disk that keeps what was written to it first."""

    def save_identity(self: MemoryStore, identity) -> None:
        if self.load_identity() is None:
            save(self, identity)

    return save_identity


@pytest.mark.parametrize("name", ["LINKS_KEPT_MAX", "PEERS_MAX"])
def test_a_table_beyond_its_limit_is_found(monkeypatch, name):
    monkeypatch.setattr(checkers, name, 1)
    with pytest.raises(InvariantViolation, match=r"holds 2 (links|members), the limit is 1"):
        play()


# -- rules that no running node can easily be made to break -----------------------------------------------------------


def test_publishing_twice_or_below_the_floor_is_found():
    history = play().history
    life = history.lives[0]
    work = next(work for work in history.work.values() if work.author is life)
    judge = Checkers(history._swarm, history)
    life.floor = work.round
    judge.published(work)
    judge.published(work)
    again = Published(bytes(32), life, work.round, 0.0, 0.0)
    with pytest.raises(InvariantViolation, match=f"published twice to round {work.round}"):
        judge.published(again)
    life.floor += 1
    with pytest.raises(InvariantViolation, match="below its floor"):
        judge.published(work)


def test_counting_twice_on_one_chain_is_found_and_on_two_it_is_no_fault():
    history = play().history
    life = history.lives[0]
    judge = Checkers(history._swarm, history)
    judge.moved(life, history.links[history.before[life.tip.chain]], life.tip)
    before = history.links[history.before[life.tip.chain]]
    beside = replace(life.tip, chain=b"beside")
    history.links[b"beside"], history.before[b"beside"] = beside, before.chain
    judge._check_link(life, beside)
    after = replace(life.tip, chain=b"after", round=life.tip.round + 1)
    history.links[b"after"], history.before[b"after"] = after, life.tip.chain
    with pytest.raises(InvariantViolation, match="for the second time"):
        judge._check_link(life, after)
