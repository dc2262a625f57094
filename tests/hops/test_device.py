"""Devices of a chain in virtual time: rounds, faults, and the same numbers as without a chain."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest

from p2pfusion.core.data import as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.submodel import Vector
from p2pfusion.core.training import train
from p2pfusion.hops.device import OWNERS_S, SETTLE_S
from p2pfusion.hops.split import Split
from p2pfusion.sim.loop import run
from tests.hops.street import Street, samples, split_of
from tests.node.parts import until

ROOM = 10**6
"""Bytes: enough for any stage here."""


def fedavg(split: Split, owners: tuple[int, ...], rounds: int, steps: int) -> np.ndarray:
    """The whole network trained by each owner, averaged round by round: what a chain must come to."""
    model = genesis(split.blueprint, split.seed)
    batches = {owner: as_data(samples(owner), 8, "train").batches(random.Random(owner)) for owner in owners}
    whole = split.blueprint.whole()
    for round_ in range(1, rounds + 1):
        recipe = split.recipe(round_)
        deltas = []
        for owner in owners:
            trained = train(split.blueprint, whole, model, batches[owner], replace(recipe, steps=steps))
            deltas.append(trained.after - model)
        model = model + sum(deltas[1:], deltas[0]) / np.float32(len(deltas))
    return model


async def together(owners: int, relays: int, rounds: int, steps: int = 4) -> Street:
    async with Street(split_of()) as street:
        for host in range(1, owners + 1):
            street.start(host, rounds=rounds, steps=steps)
        for host in range(owners + 1, owners + relays + 1):
            street.start(host, owns=False, relay_bytes=ROOM)
        await street.owners_done()
        await street.until(lambda: all(tip >= rounds for tip in street.tips().values()))
    return street


@pytest.mark.parametrize(("owners", "relays"), [(1, 1), (2, 2), (3, 3)])
def test_a_chain_comes_to_what_averaging_whole_networks_comes_to(owners: int, relays: int) -> None:
    """The same batches, fresh optimisers every round, the mean over owners: MP-SL is FedAvg in pieces."""
    street = run(lambda: together(owners, relays, rounds=4), until_s=1000.0)
    assert [len(reports) for reports in street.reports.values()] == [4] * owners
    expected = fedavg(street.split, tuple(range(1, owners + 1)), rounds=4, steps=4)
    assert np.abs(street.model() - expected).max() <= 1e-5
    assert np.abs(expected - genesis(street.split.blueprint, 0)).max() > 0.05


def test_every_shard_has_a_holder_and_a_backup_and_no_device_holds_the_whole_network() -> None:
    street = run(lambda: together(2, 3, rounds=2), until_s=1000.0)
    held = [frozenset(device.holding.nodes) for device in street.devices.values()]
    everything = frozenset(range(street.split.shards.count))
    assert all(sum(shard in one for one in held) >= 2 for shard in everything)
    assert all(one < everything for one in held)
    chains = {}
    for device in street.devices.values():
        for shard, node in device.holding.nodes.items():
            chains.setdefault(shard, set()).add(node.state.ledger.tip.chain)
    assert all(len(found) == 1 for found in chains.values())


def test_a_relay_that_dies_in_the_middle_of_a_round_costs_a_pause_and_that_round_once_more() -> None:
    async def main() -> tuple[Street, float]:
        async with Street(split_of()) as street:
            for host in (1, 2):
                street.start(host, rounds=3, steps=12)
            for host in (3, 4, 5):
                street.start(host, owns=False, relay_bytes=ROOM)
            owner = street.devices[1]
            await street.until(lambda: owner.owner is not None and owner.owner.figures.batches == 18)
            patience_s, done = owner.owner.patience_s, owner.owner.figures.batches
            lost = next(h for h, d in street.devices.items() if d.me == owner.owner.linking.chain[1].device)
            street.crash(lost)
            began_s = asyncio.get_running_loop().time()
            await street.until(lambda: owner.owner.figures.batches > done + 1)
            pause_s = asyncio.get_running_loop().time() - began_s
            await street.owners_done()
        return street, pause_s / patience_s

    street, patiences = run(main, until_s=2000.0)
    owners = [street.devices[host].owner for host in (1, 2)]
    assert [owner.figures.batches for owner in owners] == [36 + 6, 36 + 6]
    assert [(owner.figures.begun_again, owner.figures.lost) for owner in owners] == [(1, 1), (1, 1)]
    assert patiences <= 2.5  # one to notice, one to ask who is there, and the batches that it takes to see
    assert [len(street.reports[host]) for host in (1, 2)] == [3, 3]


def learnt(how: str, after: int) -> tuple[Vector, float]:
    """What two owners' six rounds came to, and the virtual seconds they took, where a relay was lost in the third."""

    async def main() -> tuple[Vector, float]:
        async with Street(split_of()) as street:
            for host in (1, 2):
                street.start(host, rounds=6, steps=8)
            for host in (3, 4, 5):
                street.start(host, owns=False, relay_bytes=ROOM)
            owner = street.devices[1]
            await street.until(lambda: owner.owner is not None and owner.owner.figures.batches >= 16 + after)
            if how == "crash":
                street.crash(4)
            elif how == "leave":
                await street.leave(4)
            await street.owners_done()
            again = [street.devices[host].owner.figures.begun_again for host in (1, 2)]
            assert again == [int(how != "calm")] * 2
            return street.model(), asyncio.get_running_loop().time()

    return run(main, until_s=2000.0)


@pytest.mark.parametrize("after", [1, 3, 5])
def test_who_carries_the_stages_makes_no_difference_to_the_model(after: int) -> None:
    """A relay that dies, one that says goodbye, and none that goes: the same bits, and a goodbye costs less time."""
    (calm, calm_s), (left, left_s), (crashed, crashed_s) = (learnt(how, after) for how in ("calm", "leave", "crash"))
    assert left.tobytes() == crashed.tobytes() == calm.tobytes()
    print(f"calm {calm_s:.1f} s, left {left_s:.1f} s, crashed {crashed_s:.1f} s")
    assert calm_s < left_s < crashed_s


def test_an_owner_that_dies_holds_nobody_up_and_frees_its_copies() -> None:
    async def main() -> Street:
        async with Street(split_of()) as street:
            for host in (1, 2):
                street.start(host, rounds=6)
            street.start(3, rounds=6)
            for host in (4, 5):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.until(lambda: len(street.reports.get(1, [])) >= 3)
            street.crash(3)
            await asyncio.gather(street.tasks[1], street.tasks[2])
            relay = street.devices[4].relay
            assert relay is not None
            await street.until(lambda: not relay.owners_at(1), limit_s=30.0)
        return street

    street = run(main, until_s=2000.0)
    assert [len(street.reports[host]) for host in (1, 2)] == [6, 6]


def test_an_owner_that_comes_later_learns_where_the_others_stand() -> None:
    async def main() -> Street:
        async with Street(split_of()) as street:
            street.start(1, rounds=8)
            for host in (3, 4):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.until(lambda: len(street.reports.get(1, [])) >= 4)
            street.start(2, rounds=8)
            await street.owners_done()
        return street

    street = run(main, until_s=2000.0)
    assert len(street.reports[1]) == 8
    assert 2 <= len(street.reports[2]) <= 4
    chains = {street.devices[host].holding.nodes[0].state.ledger.tip.chain for host in (1, 2)}
    assert len(chains) == 1


def test_a_relay_that_leaves_is_replaced_and_its_shards_live_on() -> None:
    async def main() -> Street:
        async with Street(split_of()) as street:
            street.start(1, rounds=10)
            for host in (3, 4, 5):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.until(lambda: len(street.reports.get(1, [])) >= 3)
            owner = street.devices[1].owner
            assert owner is not None
            gone = next(h for h, d in street.devices.items() if d.me == owner.linking.chain[0].device)
            await street.leave(gone)
            await street.owners_done()
            await street.until(lambda: all(tip >= 9 for tip in street.tips().values()), limit_s=30.0)
        return street

    street = run(main, until_s=2000.0)
    assert len(street.reports[1]) == 10


def test_a_relay_without_room_is_not_asked_to_hold_what_it_cannot() -> None:
    split = split_of()
    stage = split.memory_bytes(1, 1, 1)

    async def main() -> Street:
        async with Street(split) as street:
            street.start(1, rounds=3)
            street.start(3, owns=False, relay_bytes=stage)
            street.start(4, owns=False, relay_bytes=ROOM)
            await street.owners_done()
        return street

    street = run(main, until_s=2000.0)
    owner = street.devices[1].owner
    assert owner is not None
    small = next(hop for hop in owner.linking.chain if hop.device == street.devices[3].me)
    assert small.first == small.last
    assert street.devices[3].relay is not None
    assert street.devices[3].relay.taken_bytes <= stage


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_a_relay_with_an_end_waits_a_while_for_owners_that_fell_silent(says_goodbye: bool) -> None:
    """Else all relays were gone after a hiccup of all owners, who would wait for ever."""

    async def main() -> float:
        async with Street(split_of()) as street:
            street.start(1, rounds=3 if says_goodbye else 1000)
            relay = street.start(2, owns=False, relay_bytes=ROOM, until_rounds=3)
            await street.until(lambda: len(street.reports.get(1, [])) >= 2)
            if not says_goodbye:
                street.crash(1)
            else:
                await street.tasks[1]
            began_s = asyncio.get_running_loop().time()
            await street.until(lambda: relay.done is not None)
            assert relay.done is not None
            assert relay.done.status == "ok"
            return asyncio.get_running_loop().time() - began_s

    took_s = run(main, until_s=1000.0)
    assert took_s < 2.0 if says_goodbye else OWNERS_S - 2.0 < took_s < OWNERS_S + 15.0


def test_who_seems_to_have_settled_asks_everybody_before_it_believes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was heard of a relay may be older than what an owner said last."""
    seems, answered, steps = iter([True, True, False, True, True]), iter([False, True, True, True]), list[str]()

    async def main() -> None:
        async with Street(split_of()) as street:
            owner = street.start(1, rounds=1)
            street.start(2, owns=False, relay_bytes=ROOM)
            await street.until(lambda: owner.owner is not None)

            def look() -> bool:
                steps.append("look")
                return next(seems)

            async def ask() -> bool:
                steps.append("ask")
                return next(answered)

            monkeypatch.setattr(owner, "_is_settled", look)
            monkeypatch.setattr(owner._talking, "exchange", ask)
            await street.owners_done()

    run(main, until_s=1000.0)
    # One did not answer; then what was heard was old; then all is well, and the last is its goodbye.
    assert steps == ["look", "ask", "look", "ask", "look", "look", "ask", "look", "ask"]


def test_an_owner_that_measures_for_long_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has trained, so what it asks of the chain for its accuracy changes nothing."""

    async def main() -> float:
        async with Street(split_of()) as street:
            slow, other = (street.start(host, rounds=2) for host in (1, 2))
            for host in (3, 4):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.until(lambda: slow.owner is not None and other.owner is not None)
            owner = slow.owner
            assert owner is not None
            measure, exchange, measured = owner.measure, other._talking.exchange, asyncio.Event()

            async def long(round_: int, values: Vector) -> None:
                await measure(round_, values)
                measured.set()
                await until(asyncio.get_running_loop().time() + 3 * SETTLE_S)

            async def late() -> bool:
                return measured.is_set() and await exchange()

            monkeypatch.setattr(owner, "measure", long)
            monkeypatch.setattr(other._talking, "exchange", late)
            await street.until(lambda: all(len(street.reports.get(host, [])) == 2 for host in (1, 2)))
            began_s = asyncio.get_running_loop().time()
            await street.until(lambda: other.done is not None)
            assert slow.done is None
            assert len(owner.linking.chain) > 0
            assert not owner.linking.has_left
            return asyncio.get_running_loop().time() - began_s

    assert run(main, until_s=1000.0) < SETTLE_S / 2


def test_with_one_seed_one_history() -> None:
    models = [run(lambda: together(2, 2, rounds=3), until_s=1000.0).model().tobytes() for _ in range(2)]
    assert models[0] == models[1]


def test_a_relay_that_nobody_needs_ends_when_its_time_is_up() -> None:
    async def main() -> Street:
        async with Street(split_of()) as street:
            device = street.start(3, owns=False, relay_bytes=ROOM, timeout_s=20.0)
            await street.until(lambda: device.done is not None)
            assert 20.0 <= asyncio.get_running_loop().time() <= 21.0
        return street

    done = run(main, until_s=100.0).devices[3].done
    assert done is not None
    assert done.status == "timeout"


def test_micro_batches_learn_the_same_and_fill_a_chain_that_one_owner_has_for_itself() -> None:
    def alone(micro_batches: int) -> tuple[Vector, float]:
        async def main() -> tuple[Vector, float]:
            async with Street(split_of()) as street:
                street.start(1, rounds=3, micro_batches=micro_batches)
                for host in (3, 4, 5):
                    street.start(host, owns=False, relay_bytes=ROOM)
                await street.owners_done()
                await street.until(lambda: all(tip >= 3 for tip in street.tips().values()))
                owner = street.devices[1].owner
                assert owner is not None
                assert owner.figures.lost == 0
                return street.model(), owner.figures.measured_s

        return run(main, until_s=1000.0)

    (whole, whole_s), (cut, cut_s) = alone(1), alone(4)
    assert np.abs(whole - cut).max() <= 1e-6
    assert cut_s < 0.75 * whole_s


def test_a_device_that_keeps_all_follows_every_shard_and_is_asked_for_no_copy() -> None:
    async def main() -> Street:
        async with Street(split_of()) as street:
            street.start(1, rounds=4, keeps_all=True)
            street.start(2, rounds=4)
            for host in (3, 4):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.owners_done()
        return street

    street = run(main, until_s=1000.0)
    keeper = street.devices[1]
    assert sorted(keeper.holding.nodes) == list(range(street.split.shards.count))
    assert {node.state.ledger.tip.round for node in keeper.holding.nodes.values()} == {4}
    assert keeper.relay is not None
    assert keeper.relay.figures.copies_most == 0
    assert sorted(street.devices[2].holding.nodes) == [0]


def test_a_relay_without_room_for_another_ledger_keeps_no_backup() -> None:
    """Two stages of a chain: each relay would be the other's backup, and has room for its own copies alone."""

    def held(room: int) -> list[int]:
        async def main() -> list[int]:
            async with Street(split_of()) as street:
                street.start(1, rounds=3)
                for host in (3, 4):
                    street.start(host, owns=False, relay_bytes=room)
                await street.owners_done()
                return sorted(len(street.devices[host].holding.nodes) for host in (3, 4))

        return run(main, until_s=1000.0)

    split = split_of()
    last = split.shards.count - 1
    stage = max(split.memory_bytes(1, 2, 1), split.memory_bytes(2, last, 1))
    assert held(stage) == [1, last - 1]
    assert held(ROOM) == [last, last]
