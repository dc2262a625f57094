"""A node that stops without a word and starts again with what its disk holds, over the simulated doors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from p2pfusion.config import CadenceConfig
from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import StoreError
from p2pfusion.node import Done, Event, Node, WarningEvent
from p2pfusion.node.resuming import CHECKPOINT_S
from p2pfusion.node.state import LIFE
from p2pfusion.seams import Checkpoint, Identity
from p2pfusion.store.memory import MemoryStore
from tests.node.parts import BLUEPRINT, until
from tests.node.test_node import Lan, life, on_lan, reports
from tests.sim.learners import LightLearner


class Published(MemoryStore):
    """Remembers every incarnation and round that was promised to it."""

    def __init__(self) -> None:
        super().__init__()
        self.identities: list[Identity] = []

    def save_identity(self, identity: Identity) -> None:
        super().save_identity(identity)
        self.identities.append(identity)


class Lives:
    """The same device through several starts."""

    def __init__(self, lan: Lan, group: asyncio.TaskGroup, index: int, store: MemoryStore | None = None, **config):
        self.lan, self.group, self.index, self.config = lan, group, index, {"cadence": CadenceConfig(), **config}
        self.store = store or Published()
        self.events: list[Event] = []
        self.starts = 0
        self.refused = ""
        self.node: Node
        self.task: asyncio.Task

    def start(self) -> None:
        self.starts += 1
        self.node = self.lan.node(self.index, store=self.store, starts=self.starts, **self.config)
        self.events = []
        self.task = self.group.create_task(self._live())

    async def _live(self) -> None:
        try:
            await life(self.node, self.events)
        except StoreError as error:
            self.refused = str(error)

    async def crash(self) -> None:
        """Without a word and without saving anything."""
        self.task.cancel()
        await asyncio.wait_for(asyncio.shield(self._gone()), 1.0)

    async def _gone(self) -> None:
        while not self.task.done():
            await until(asyncio.get_running_loop().time() + 0.001)

    @property
    def tip(self) -> int:
        return self.node.state.ledger.tip.round

    def warnings(self) -> list[str]:
        return [event.code for event in self.events if isinstance(event, WarningEvent)]


def with_lives(count: int, main: Callable, **config) -> None:
    async def whole(lan: Lan) -> None:
        async with asyncio.TaskGroup() as group:
            lives = [Lives(lan, group, index, **config) for index in range(1, count + 1)]
            for one in lives:
                one.start()
            await main(*lives)

    on_lan(whole)


async def all_end(*lives: Lives) -> None:
    """All stop at once, later, with one model."""
    for one in lives:
        await one.task
    dones = [one.node.done for one in lives]
    assert all(done is not None and done.status == "ok" for done in dones), dones
    assert len({(done.model_sha256, done.chain, done.round) for done in dones if done}) == 1


def never_twice(store: MemoryStore) -> None:
    """Rounds are promised once each, in rising order, across all lives; incarnations only rise between them."""
    assert isinstance(store, Published)
    for before, after in zip(store.identities, store.identities[1:], strict=False):
        assert after.peer == before.peer
        assert after.last >= before.last
        if after.incarnation // LIFE != before.incarnation // LIFE:
            assert after.incarnation > before.incarnation
            assert after.last == before.last
    rounds = [identity.last for identity in store.identities]
    assert len({*rounds}) >= 10


@pytest.mark.parametrize("away_s", [0.1, 1.0, 20.0])
def test_who_returns_with_its_disk_is_the_same_peer_and_trains_again(away_s):
    async def main(one: Lives, two: Lives, three: Lives) -> None:
        await until(9.0)
        me, tip = one.node.state.me, one.tip
        assert tip > 14
        await one.crash()
        await until(9.0 + away_s)
        one.start()
        began_s = 9.0 + away_s
        while not reports(one.events):
            await until(asyncio.get_running_loop().time() + 0.05)
        assert asyncio.get_running_loop().time() - began_s < 5.0
        assert one.node.state.me == me
        assert one.node.state.incarnation >= 2 * LIFE
        assert one.node.resumed_round is not None
        assert tip - 8 <= one.node.resumed_round <= tip
        for lives in (one, two, three):
            lives.node.state.learn_stop(max(lives.node.state.ledger.newest for lives in (one, two, three)) + 5)
        await all_end(one, two, three)
        never_twice(one.store)
        assert "residual-dropped" not in one.warnings()

    with_lives(3, main, min_peers=2)


def test_who_returns_without_its_disk_is_a_new_peer():
    async def main(one: Lives, two: Lives) -> None:
        await until(6.0)
        me = one.node.state.me
        await one.crash()
        one.store = MemoryStore()
        one.start()
        await until(14.0)
        assert one.node.state.me != me
        assert one.node.resumed_round is None
        assert reports(one.events)
        for lives in (one, two):
            lives.node.state.learn_stop(two.node.state.ledger.newest + 3)
        await all_end(one, two)

    with_lives(2, main, min_peers=2)


@pytest.mark.parametrize("apart_s", [0.0, 0.7, 1.5])
def test_when_all_lids_were_closed_they_go_on_from_their_disks(apart_s):
    """Nobody is left who trains: the first to return must not seal the others' saved work away."""

    async def main(*lives: Lives) -> None:
        await until(9.0)
        tip = max(one.tip for one in lives)
        for one in lives:
            await one.crash()
        for one in lives:
            await until(asyncio.get_running_loop().time() + apart_s)
            one.start()
        await until(asyncio.get_running_loop().time() + 8.0)
        assert all(one.node.resumed_round is not None and one.node.resumed_round >= tip - 9 for one in lives)
        assert all(one.tip > tip for one in lives)
        assert not any("switched" in one.warnings() for one in lives)
        for one in lives:
            one.node.state.learn_stop(lives[0].node.state.ledger.newest + 3)
        await all_end(*lives)
        for one in lives:
            never_twice(one.store)

    with_lives(3, main)


def test_alone_a_node_goes_on_where_it_stopped():
    async def main(one: Lives) -> None:
        await until(8.0)
        await one.crash()
        last = one.store.load_identity()
        assert last is not None
        one.start()
        await until(12.0)
        assert reports(one.events)[0].round == last.last + 1
        assert one.tip >= last.last
        one.node.stop()
        await one.task
        assert isinstance(one.events[-1], Done)

    with_lives(1, main)


def test_who_ended_stands_at_its_end_again():
    async def main(one: Lives) -> None:
        await one.task
        first = one.node.done
        one.start()
        await one.task
        again = one.node.done
        assert first is not None
        assert again is not None
        assert (again.status, again.round, again.model_sha256) == ("ok", 5, first.model_sha256)
        assert reports(one.events) == []
        assert one.node.resumed_round == 5

    with_lives(1, main, until_rounds=5)


def test_slow_rounds_are_saved_before_the_eighth():
    async def main(lan: Lan) -> None:
        store = MemoryStore()
        slow = LightLearner(1, blueprint=BLUEPRINT, cost_s=60.0)
        node = lan.node(1, slow, store=store)
        async with node:
            await until(3.0 + 4 * CHECKPOINT_S)
            saved = store.load_checkpoint(node.state.run_id)
            assert saved is not None
            assert 3 <= saved.round < 8

    on_lan(main)


def test_interrupted_in_the_middle_of_a_round_nothing_is_forgotten():
    async def main(one: Lives) -> None:
        await until(4.0)
        one.node.stop()
        await one.task
        model, done = one.node.model(), one.node.done
        one.start()
        await until(4.5)
        assert done is not None
        assert one.node.resumed_round == done.round
        assert model_sha256(model) == done.model_sha256
        assert one.node.state.ledger.links[-1].chain.hex() == done.chain
        one.node.stop()
        await one.task

    with_lives(1, main)


# -- the disk ---------------------------------------------------------------------------------------------------------


class Filling(MemoryStore):
    """A disk that is full at times."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.refused = 0

    def _check(self) -> None:
        if self.is_full:
            self.refused += 1
            raise StoreError("cannot write: no space left on device; free some space")

    def save_identity(self, identity: Identity) -> None:
        self._check()
        super().save_identity(identity)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._check()
        super().save_checkpoint(checkpoint)


def test_a_disk_that_is_full_for_a_while_costs_one_warning_and_is_used_again():
    async def main(lan: Lan) -> None:
        store, events = Filling(), []
        node = lan.node(1, store=store)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(life(node, events))
            for full_from_s in (4.0, 12.0):
                await until(full_from_s)
                store.is_full = True
                await until(full_from_s + 5.0)
                assert store.load_identity() is None, "an identity that is too old would publish twice"
                store.is_full = False
            await until(20.0)
            node.stop()
            await running
        warnings = [event.code for event in events if isinstance(event, WarningEvent)]
        assert warnings == ["store", "store-recovered"] * 2
        assert store.refused > 20
        identity, saved = store.load_identity(), store.load_checkpoint(node.state.run_id)
        assert identity is not None
        assert saved is not None
        assert identity.peer == node.state.me
        assert identity.last == node.state.ledger.last
        assert saved.round == node.state.ledger.tip.round

    on_lan(main)


def test_who_crashed_while_its_disk_was_full_is_a_new_peer():
    async def main(one: Lives, two: Lives) -> None:
        await until(6.0)
        me = one.node.state.me
        assert isinstance(one.store, Filling)
        one.store.is_full = True
        await until(8.0)
        await one.crash()
        one.store.is_full = False
        one.start()
        await until(14.0)
        assert one.node.state.me != me
        assert one.node.resumed_round is not None, "the model is as good as ever"
        for lives in (one, two):
            lives.node.state.learn_stop(two.node.state.ledger.newest + 3)
        await all_end(one, two)

    async def whole(lan: Lan) -> None:
        async with asyncio.TaskGroup() as group:
            one = Lives(lan, group, 1, Filling(), min_peers=2)
            two = Lives(lan, group, 2, min_peers=2)
            one.start()
            two.start()
            await main(one, two)

    on_lan(whole)


def test_who_cannot_count_its_start_is_a_new_peer_and_says_so():
    async def main(one: Lives) -> None:
        await until(6.0)
        me = one.node.state.me
        await one.crash()
        identity = one.store.load_identity()
        assert isinstance(one.store, Filling)
        one.store.is_full = True
        one.start()
        await until(7.0)
        assert one.node.state.me != me
        assert one.warnings() == ["store"]
        assert one.store.load_identity() == identity, "nothing was said under the old one"
        one.store.is_full = False
        one.node.stop()
        await one.task

    async def whole(lan: Lan) -> None:
        async with asyncio.TaskGroup() as group:
            one = Lives(lan, group, 1, Filling())
            one.start()
            await main(one)

    on_lan(whole)


class Unreadable(MemoryStore):
    def load_identity(self) -> Identity | None:
        raise StoreError("cannot read identity.json: input/output error")

    def load_checkpoint(self, run_id: bytes) -> Checkpoint | None:
        raise StoreError("cannot read checkpoint: input/output error")


def test_a_disk_that_cannot_be_read_makes_a_new_peer():
    async def main(lan: Lan) -> None:
        node = lan.node(1, store=Unreadable(), until_rounds=2)
        events = await life(node)
        assert [event.code for event in events if isinstance(event, WarningEvent)] == ["store", "store-recovered"]
        assert node.resumed_round is None

    on_lan(main)


def test_a_checkpoint_that_is_not_what_it_says_is_not_resumed():
    async def main(one: Lives) -> None:
        await until(8.0)
        await one.crash()
        saved = one.store.load_checkpoint(one.node.state.run_id)
        assert saved is not None
        name = next(iter(saved.model))
        spoilt = {**saved.model, name: saved.model[name] + np.float32(1)}
        one.store.save_checkpoint(replace(saved, model=spoilt))
        one.start()
        await until(9.0)
        assert one.node.resumed_round is None
        assert one.warnings() == ["store"]
        one.node.stop()
        await one.task

    with_lives(1, main)


def test_who_was_in_another_run_since_is_a_new_peer_in_the_old_one():
    async def main(one: Lives) -> None:
        await until(6.0)
        me, run_id = one.node.state.me, one.node.state.run_id
        await one.crash()
        identity = one.store.load_identity()
        assert identity is not None
        one.store.save_identity(replace(identity, run_id=bytes(32), last=999))
        one.start()
        await until(7.0)
        assert one.node.resumed_round is not None
        assert one.node.state.me != me
        assert one.node.state.ledger.last == 0
        now = one.store.load_identity()
        assert now is not None
        assert (now.run_id, now.incarnation) == (run_id, 2 * LIFE)
        one.node.stop()
        await one.task

    with_lives(1, main)


def test_a_copied_folder_is_told_and_the_copy_does_not_begin():
    async def main(one: Lives, two: Lives) -> None:
        await until(6.0)
        copy = MemoryStore()
        identity = one.store.load_identity()
        assert identity is not None
        copy.save_identity(identity)
        third = Lives(one.lan, one.group, 3, copy, min_peers=2)
        third.node = third.lan.node(3, store=copy, min_peers=2)
        with pytest.raises(StoreError, match="uses the identity in memory: the folder was copied; start this one with"):
            await life(third.node)
        assert not reports(third.events)
        await until(20.0)
        assert one.warnings() == ["copied-state"]
        for lives in (one, two):
            lives.node.state.learn_stop(max(x.node.state.ledger.newest for x in (one, two)) + 3)
        await all_end(one, two)

    with_lives(2, main, min_peers=2)


@pytest.mark.parametrize("others", [0, 1, 2])
def test_of_two_copies_started_together_one_goes_on(others):
    """Nobody can tell which of them is the copy; both can see which has the smaller addresses."""

    async def main(lan: Lan) -> None:
        identity = Identity(peer=b"p" * 16, incarnation=3 * LIFE, last=0, run_id=b"r" * 32)
        async with asyncio.TaskGroup() as group:
            lives = [Lives(lan, group, index, Published()) for index in range(1, 3 + others)]
            for one in lives[:2]:
                one.store.save_identity(identity)
            copies = lives[:2]
            for one in lives:
                one.start()
            await until(1.5)
            kept, gone = sorted(copies, key=lambda one: one.node.addresses)
            assert not kept.task.done()
            assert "the folder was copied" in gone.refused
            assert not reports(gone.events)
            await until(8.0)
            assert reports(kept.events)
            assert kept.warnings() == ["copied-state"]
            left = [one for one in lives if one is not gone]
            for one in left:
                one.node.state.learn_stop(max(x.node.state.ledger.newest for x in left) + 3)
            await all_end(*left)

    on_lan(main)


@pytest.mark.parametrize("backup_s", [2.5, 9.0])
def test_a_copy_that_only_a_third_node_tells_of_does_not_begin(backup_s):
    async def main(one: Lives, two: Lives) -> None:
        await until(backup_s)
        identity = one.store.load_identity()
        assert identity is not None
        await until(9.0)
        copy = apart(one, two, 3)
        copy.store.save_identity(identity)
        copy.start()
        await until(15.0)
        assert "the folder was copied" in copy.refused
        assert not reports(copy.events)
        assert set(one.warnings()) <= {"copied-state"}
        for lives in (one, two):
            lives.node.state.learn_stop(max(x.node.state.ledger.newest for x in (one, two)) + 3)
        await all_end(one, two)

    with_lives(2, main, min_peers=2)


@pytest.mark.parametrize("lives_before", [1, 4])
def test_an_old_backup_whose_newer_life_is_over_may_begin(lives_before):
    """The third node still speaks of the newer life, whose beat stands still."""

    async def main(one: Lives, two: Lives) -> None:
        await until(5.0)
        identity = one.store.load_identity()
        assert identity is not None
        for life_ in range(lives_before):
            await one.crash()
            await until(7.0 + 2 * life_)
            one.start()
        await until(16.0)
        await one.crash()
        again = apart(one, two, 3)
        again.store.save_identity(identity)
        began_s = asyncio.get_running_loop().time()
        again.start()
        while not reports(again.events):
            await until(asyncio.get_running_loop().time() + 0.1)
        assert asyncio.get_running_loop().time() - began_s < 8.0
        assert again.node.state.me == identity.peer
        for lives in (again, two):
            lives.node.state.learn_stop(max(x.node.state.ledger.newest for x in (again, two)) + 3)
        await all_end(again, two)

    with_lives(2, main)


def apart(one: Lives, other: Lives, index: int) -> Lives:
    """A device that only finds `other`, and is found by nobody."""
    lan = Lan()
    lan.network = one.lan.network
    return Lives(lan, one.group, index, Published(), peers=other.node.addresses)
