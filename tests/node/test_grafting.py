"""Grafts between two nodes: the losing side's work comes back at its share, once, and everybody holds the same bits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from p2pfusion.config import RunConfig
from p2pfusion.node.fetching import Fetching
from p2pfusion.sim.loop import run
from p2pfusion.swarm import grafts
from p2pfusion.swarm.grafts import LOSSES_MAX, Loss, Losses
from p2pfusion.wire.messages import GraftKey
from tests.node.parts import Parts, Wire, at_work, copied, parts, until
from tests.node.test_chain import agree, forked

EVERY = RunConfig().snapshot_every_rounds


async def both_at_work(one: Parts, other: Parts, until_s: float) -> None:
    """Both seal, follow, switch and graft; every tenth of a second each hears what the other reports and publishes."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for node in (one, other):
            tasks.append(group.create_task(node.chain.run()))
            tasks.append(group.create_task(Fetching(node.state, node.calls, node.gossiping, group).run()))
        loop = asyncio.get_running_loop()
        while loop.time() < until_s:
            for node, peer in ((one, other), (other, one)):
                node.meet(peer)
                for entry in [e for slots in list(peer.state.ledger.open.values()) for e in slots.values()]:
                    if entry.is_complete and entry.manifest.round > node.state.ledger.tip.round:
                        copied(entry, node)
                node.state.stir()
            await until(loop.time() + 0.1)
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize(("common", "mine", "theirs"), [(0, 1, 2), (3, 2, 4), (6, 4, 5), (1, 3 * EVERY, 3 * EVERY + 3)])
def test_after_a_fork_both_hold_the_weighted_average_of_the_sides(common, mine, theirs):
    async def main() -> None:
        one, other = await forked(Wire(), common, mine, theirs)
        loser, winner = one.state.replica.sealed.copy(), other.state.replica.sealed.copy()
        lost = {id_ for link in one.state.ledger.links[common + 1 :] for id_ in link.ids}
        one.state.ledger.set_limit(common + theirs)
        other.state.ledger.set_limit(common + theirs)
        await both_at_work(one, other, 30.0)
        agree(one, other)
        for node in (one, other):
            ledger = node.state.ledger
            assert ledger.grafts.total == 1
            assert ledger.grafts.ids() == lost
            assert not ledger.losses
            assert not node.state.replica.residual.any()
            assert not node.state.report().owes_graft
        assert other.state.ledger.tip.weight == (common + mine + theirs) * 65536
        average = winner + np.float32(mine / (mine + theirs)) * (loser - winner)
        np.testing.assert_allclose(one.state.replica.sealed, average, rtol=1e-6)
        assert [w.code for w in one.warnings()] == ["switched", "graft"]

    run(main)


def test_a_joiner_learns_from_the_snapshot_what_was_grafted():
    async def main() -> None:
        wire = Wire()
        one, other = await forked(wire, 0, 2, EVERY - 1)
        await both_at_work(one, other, 20.0)
        for node in (one, other):
            assert await node.publish(np.ones_like(node.state.replica.sealed)) is not None, "nobody stays in its round"
        await both_at_work(one, other, 25.0)
        assert other.state.ledger.grafts.total == 1
        for _ in range(2 * EVERY):
            entry = await other.publish(np.ones_like(other.state.replica.sealed))
            assert entry is not None
            await other.chain._append(other.state.ledger.next_link([entry]), [entry])
        late = parts(wire, 3)
        late.meet(other)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(late.chain.run()),
                group.create_task(Fetching(late.state, late.calls, late.gossiping, group).run()),
            ]
            late.state.stir()
            await until(asyncio.get_running_loop().time() + 5.0)
            for task in tasks:
                task.cancel()
        agree(late, other)
        assert late.state.ledger.grafts.total == 1
        assert late.state.ledger.grafts.ids() == other.state.ledger.grafts.ids() != frozenset()
        chain = late.state.ledger.links[late.kept.oldest_round - late.state.ledger.links[0].round].chain
        mine, theirs = late.kept.by_chain(chain), other.kept.by_chain(chain)
        assert mine is not None
        assert theirs is not None
        assert mine.manifest == theirs.manifest, "all holders serve the same snapshot"

    run(main)


def test_the_loss_is_owed_until_its_graft_is_sealed():
    async def main() -> None:
        one, other = await forked(Wire(), 1, 2, 4)
        for node in (one, other):
            node.state.ledger.set_limit(5)
        await at_work(one, 15.0)
        assert [w.code for w in one.warnings()] == ["switched", "graft"], "published, but the other has not heard of it"
        assert one.state.report().owes_graft
        await both_at_work(one, other, 25.0)
        assert one.state.ledger.grafts.total == 1
        assert not one.state.report().owes_graft

    run(main)


# -- when -------------------------------------------------------------------------------------------------------------


class Halves:
    """A generator that always says 0.5."""

    def random(self) -> float:
        return 0.5


def loss(number: int, weight: int = 1, length: int = 5) -> Loss:
    key: GraftKey = (bytes(32), number.to_bytes(32, "big"))
    return Loss(key=key, length=length, weight=weight, fork_weight=0, covers=frozenset([bytes([number]) * 32]))


def test_a_graft_is_due_after_a_random_part_of_one_patience_once_the_winner_is_past():
    losses, rng = Losses(), Halves()
    losses.add(loss(1))
    assert losses.due(4, False, 0.0, 2.0, rng) is None, "the winner has not passed the losing tip"
    assert losses.due(5, False, 10.0, 2.0, rng) is None
    assert losses.due(5, False, 10.9, 2.0, rng) is None
    assert losses.due(5, True, 11.5, 2.0, rng) is None, "another comes first: wait anew"
    assert losses.due(5, False, 12.0, 2.0, rng) is None
    assert losses.due(5, False, 13.0, 2.0, rng) == loss(1)
    assert losses.due(5, False, 13.1, 2.0, rng) is None, "published; only if it was not counted it is tried again"


def test_of_too_many_losses_the_lightest_is_given_up():
    losses = Losses()
    for number in range(LOSSES_MAX):
        assert losses.add(loss(number, weight=10 + number)) is None
    assert losses.add(loss(99, weight=50)) == loss(0, weight=10)
    assert len(losses) == LOSSES_MAX
    assert not losses.stand_for(bytes([0]) * 32)
    assert losses.stand_for(bytes([99]) * 32)


def test_what_is_forgotten_of_grafts_depends_on_the_chain_alone(monkeypatch):
    monkeypatch.setattr(grafts, "COVERED_IDS_MAX", 5)
    monkeypatch.setattr(grafts, "GRAFTS_KEPT_MAX", 4)
    counted = grafts.Grafts()
    for round_ in range(1, 9):
        ids = frozenset(bytes([round_, i]) * 16 for i in range(2))
        counted.append(grafts.Grafted(round=round_, key=(bytes(32), bytes([round_]) * 32), ids=ids))
        assert len(counted.counted) <= 4
        assert sum(len(one.ids) for one in counted.counted[:-1]) <= 5
    assert counted.total == len(counted) == 8
    assert [one.round for one in counted.counted] == [6, 7, 8]
    before = counted.until(7)
    assert ([one.round for one in before.counted], before.total) == ([6, 7], 7)
