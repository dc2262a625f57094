"""Nodes that observe, in virtual time and under the checkers' eyes: nobody waits for them, and they can take over.

Nodes 0 and 1 train, node 2 observes for as long as a test says.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median

import pytest

from p2pfusion.algorithms.base import Evaluation, Vector
from p2pfusion.config import CadenceConfig, RunConfig
from p2pfusion.sim.faults import Arrival, Crash
from p2pfusion.sim.loop import run
from p2pfusion.sim.scenario import Outcome, Result, Scenario
from p2pfusion.sim.world import LinkModel, World
from tests.sim.learners import LightLearner, light_blueprint, light_learner

LAN = LinkModel(latency_s=0.005, jitter_s=0.005)
OBSERVER = 2
LEARNER = light_learner(cost_s=0.5)


class Judged(LightLearner):
    """Has validation data, and counts how often they are asked."""

    asked = 0

    def evaluate(self, model: Vector) -> Evaluation | None:
        self.asked += 1
        return Evaluation(0.5)


class Seen:
    """What a world showed: the roles of the observer in turn, and how far tips were behind the newest round."""

    def __init__(self) -> None:
        self.roles: list[str] = []
        self.behind: list[int] = []

    def __call__(self, world: World, index: int) -> None:
        node = world.nodes.get(index)
        if node is None:
            return
        ledger = node.state.ledger
        self.behind.append(ledger.newest - ledger.tip.round)
        if index == OBSERVER and self.roles[-1:] != [node.state.role]:
            self.roles.append(node.state.role)


def play(
    scenario: Scenario,
    observes: Callable[[World, int], bool],
    learner: Callable[[int], LightLearner] = LEARNER,
) -> tuple[Result, World, Seen]:
    """Run it to its end; `observes` is asked with the world as it stands."""
    seen = Seen()
    world = World(scenario, learner, 1, watch=seen, observes=lambda index: observes(world, index))
    result = run(world.run, until_s=scenario.until_s)
    return result, world, seen


def always(world: World, index: int) -> bool:
    return index == OBSERVER


def round_s(outcome: Outcome) -> float:
    """How long a round takes in the middle of the run, at the median."""
    return median(after - before for before, after in pairwise(outcome.reported_s[3:-3]))


@pytest.mark.parametrize("quorum", [0.75, 1.0])
def test_all_end_as_one_and_nobody_waits_for_who_observes(quorum: float) -> None:
    cadence = CadenceConfig(round_min_s=0.0, quorum=quorum)
    two = Scenario(nodes=2, rounds=30, link=LAN, cadence=cadence)
    three = Scenario(nodes=3, rounds=30, link=LAN, cadence=cadence)
    alone, _, before = play(two, always)
    result, world, seen = play(three, always)
    assert len(result.model_hashes) == len(result.chains) == 1
    assert [outcome.done.status for outcome in result.outcomes if outcome.done] == ["ok"] * 3
    assert [len(outcome.reports) for outcome in result.outcomes] == [30, 30, 0]
    assert [outcome.done.round for outcome in result.outcomes if outcome.done] == [30] * 3
    for index in (0, 1):
        assert round_s(result.outcomes[index]) <= 1.02 * round_s(alone.outcomes[index])
        assert [report.missing for report in result.outcomes[index].reports] == [0] * 30
    assert median(seen.behind) <= max(median(before.behind), 2)
    assert max(seen.behind) <= 4
    assert seen.roles == ["syncing", "observes", "draining"]
    assert world.nodes[OBSERVER].state.ledger.last == 0


def test_who_observes_measures_nothing() -> None:
    blueprint = light_blueprint()
    learners: dict[int, Judged] = {}

    def learner(index: int) -> Judged:
        return learners.setdefault(index, Judged(index, blueprint=blueprint))

    result, _, _ = play(Scenario(nodes=3, rounds=12, link=LAN), always, learner=learner)
    assert [learners[index].asked > 0 for index in range(3)] == [True, True, False]
    assert [outcome.done.accuracy for outcome in result.outcomes if outcome.done] == [0.5, 0.5, None]


CRASHES = (Crash(node=0, at_s=6.0), Crash(node=1, at_s=6.1))


def test_who_observes_takes_over_where_the_others_stopped() -> None:
    """Both trainers crash; somebody gives the observer work twenty seconds later."""
    scenario = Scenario(nodes=3, rounds=40, link=LAN, crashes=CRASHES)
    states: list[tuple[int, int, bytes]] = []

    def observes(world: World, index: int) -> bool:
        is_observing = index == OBSERVER and world.now_s < 30.0
        if index == OBSERVER and not is_observing and not states:
            state = world.nodes[index].state
            states.append((state.ledger.newest, state.ledger.tip.round, state.model_hash))
        return is_observing

    result, world, seen = play(scenario, observes)
    ((newest, tip, sealed),) = states
    before = [world.nodes[index].state.ledger for index in (0, 1)]
    assert newest == tip == max(ledger.newest for ledger in before) > 8, "alone it sealed all that the others had begun"
    reports = result.outcomes[OBSERVER].reports
    assert [report.round for report in reports] == list(range(tip + 1, 41))
    assert seen.roles == ["syncing", "observes", "trains", "draining"]
    mine = world.nodes[OBSERVER].state
    authors = [[world.history.work[id_].author.index for id_ in link.ids] for link in mine.ledger.links]
    assert authors[tip + 1 :] == [[OBSERVER]] * (40 - tip)
    assert mine.model_hash != sealed
    assert all(mine.ledger.has_chain(ledger.tip.round, ledger.tip.chain) for ledger in before), "none of theirs is lost"


def test_it_takes_over_from_those_who_leave() -> None:
    """Node 0 says goodbye, node 1 a little later: the observer begins when it sees nobody train."""
    scenario = Scenario(nodes=3, rounds=30, link=LAN)

    def observes(world: World, index: int) -> bool:
        for leaving, at_s in ((0, 5.0), (1, 6.0)):
            if world.now_s >= at_s:
                world.nodes[leaving].stop()
        if index != OBSERVER:
            return False
        return world.now_s < 4.0 or bool(world.nodes[index].state.membership.view(world.now_s).others())

    result, world, _ = play(scenario, observes)
    left = [world.nodes[index].state.ledger for index in (0, 1)]
    rounds = [report.round for report in result.outcomes[OBSERVER].reports]
    assert rounds == list(range(max(ledger.newest for ledger in left) + 1, 31))
    mine = world.nodes[OBSERVER].state.ledger
    assert all(mine.has_chain(ledger.tip.round, ledger.tip.chain) for ledger in left)


@pytest.mark.parametrize("snapshot_every", [8, 64], ids=["snapshot", "links"])
def test_a_newcomer_learns_the_chain_from_who_observes(snapshot_every: int) -> None:
    """Only the observer is left when node 3 comes: it goes on from there, and not from genesis."""
    scenario = Scenario(
        nodes=4,
        rounds=40,
        link=LAN,
        crashes=CRASHES,
        arrivals=(Arrival(node=3, at_s=40.0),),
        run=RunConfig(snapshot_every_rounds=snapshot_every),
    )
    result, world, _ = play(scenario, always)
    before = max(world.nodes[index].state.ledger.newest for index in (0, 1))
    assert [report.round for report in result.outcomes[3].reports] == list(range(before + 1, 41))
    assert len(result.model_hashes) == len(result.chains) == 1
    assert [outcome.done is not None for outcome in result.outcomes] == [False, False, True, True]
    assert len(result.outcomes[OBSERVER].reports) == 0


def test_who_observes_comes_back_from_its_disk_and_observes_again() -> None:
    crash = Crash(node=OBSERVER, at_s=5.0, back_s=7.0)
    scenario = Scenario(nodes=3, rounds=60, link=LAN, crashes=(crash,))
    result, world, seen = play(scenario, always)
    assert len(result.model_hashes) == len(result.chains) == 1
    assert world.nodes[OBSERVER].resumed_round is not None
    assert seen.roles == ["syncing", "observes", "syncing", "observes", "draining"]
    assert [len(outcome.reports) for outcome in result.outcomes] == [60, 60, 0]


def test_a_swarm_that_only_observes_waits_for_a_trainer() -> None:
    scenario = Scenario(nodes=3, rounds=5, link=LAN, min_peers=2, arrivals=(Arrival(node=0, at_s=20.0),))
    result, world, _ = play(scenario, lambda world, index: index > 0)
    assert [len(outcome.reports) for outcome in result.outcomes] == [5, 0, 0]
    assert len(result.chains) == 1
    assert all(world.nodes[index].state.ledger.tip.round == 5 for index in range(3))


def test_turns_of_training_and_observing() -> None:
    """One of three always observes; the checkers see to it that nobody publishes below its floor, nor twice."""
    scenario = Scenario(nodes=3, rounds=80, link=LAN)
    result, world, seen = play(scenario, lambda world, index: int(world.now_s / 3.0) % 3 == index)
    assert len(result.model_hashes) == len(result.chains) == 1
    counted = [id_ for link in world.nodes[0].state.ledger.links for id_ in link.ids]
    assert sorted(counted) == sorted(world.history.work), "every contribution is in the chain, once"
    assert all(30 < len(outcome.reports) < 80 for outcome in result.outcomes)
    assert seen.roles.count("observes") >= 2


def test_what_is_trained_ahead_is_told_before_observing() -> None:
    """With a round trained ahead, the reports of those on their way still come."""
    cadence = CadenceConfig(round_min_s=0.0, ahead_rounds=2)
    scenario = Scenario(nodes=3, rounds=30, link=LAN, cadence=cadence)
    result, world, _ = play(scenario, lambda world, index: index == OBSERVER and world.now_s > 6.0)
    mine = [work.round for work in world.history.work.values() if work.author.index == OBSERVER]
    assert [report.round for report in result.outcomes[OBSERVER].reports] == sorted(mine)
    assert len(result.chains) == 1
