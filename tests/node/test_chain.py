"""The task that moves the tip, against one other node that is ahead, on another chain, or lying."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from p2pfusion.config import NodeConfig, RunConfig
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.errors import StoreError, WireError
from p2pfusion.node.decoding import weighted
from p2pfusion.node.pull import Pull
from p2pfusion.node.snapshots import hash_of
from p2pfusion.seams import Checkpoint, Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.store.memory import MemoryStore
from p2pfusion.swarm.grafts import Grafts
from p2pfusion.swarm.haste import REST_S, RESTS_MAX
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import encode_links, next_chain
from p2pfusion.wire.messages import Link
from tests.node.parts import BLUEPRINT, WHOLE, Parts, Wire, at_work, copied, grown, ones, parts, sealed, until
from tests.swarm.made import link_after

EVERY = RunConfig().snapshot_every_rounds


def folded(one: Parts) -> np.ndarray:
    """The model that the node's chain says, from genesis, by hand."""
    model, ledger = one.state.algorithm.genesis, one.state.ledger
    for link in ledger.links[1:]:
        entries = ledger.sealed_entries(link.round)
        assert entries is not None
        counted: list[Weighted] = [weighted(BLUEPRINT, entry) for entry in entries]
        model = fold(BLUEPRINT, WHOLE, model, counted)
    return model


def agree(one: Parts, other: Parts) -> None:
    assert one.state.ledger.tip == other.state.ledger.tip
    assert one.state.replica.sealed.tobytes() == other.state.replica.sealed.tobytes()
    assert one.state.model_hash == other.state.model_hash == hash_of(one.state.replica.sealed)


# -- sealing ----------------------------------------------------------------------------------------------------------


def test_alone_every_round_is_sealed_as_soon_as_i_left_it():
    async def main() -> None:
        one = parts()
        for round_ in (1, 2, 3):
            await one.publish(ones(value=float(round_)))
        await at_work(one, 0.1)
        assert one.state.ledger.tip.round == 3
        assert one.state.replica.sealed.tobytes() == folded(one).tobytes()
        assert one.state.model_hash == hash_of(one.state.replica.sealed)
        assert not one.state.replica.residual.any()

    run(main)


def test_two_that_agree_seal_and_one_that_does_not_waits():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        mine, theirs = await one.publish(ones()), await other.publish(ones(value=3.0))
        assert mine is not None
        assert theirs is not None
        one.meet(other)
        await at_work(one, 0.1)
        assert one.state.ledger.tip.round == 0
        copied(theirs, one)
        await at_work(one, 0.2)
        assert one.state.ledger.tip.round == 0
        copied(mine, other)
        one.meet(other)
        await at_work(one, 0.3)
        assert one.state.ledger.tip.round == 1
        genesis = one.state.algorithm.genesis
        np.testing.assert_allclose(one.state.replica.sealed, genesis + 2.0, rtol=1e-6)

    run(main)


def test_snapshots_are_kept_and_written_and_older_payloads_forgotten():
    async def main() -> None:
        store = MemoryStore()
        one = parts(store=store)
        await grown(one, 3 * EVERY + 1)
        ledger = one.state.ledger
        assert one.kept.oldest_round == 2 * EVERY
        assert [ledger.sealed_entries(r) is None for r in (2 * EVERY, 2 * EVERY + 1)] == [True, False]
        assert len(ledger.entries) == EVERY + 1
        checkpoint = store.load_checkpoint(one.state.run_id)
        assert checkpoint is not None
        assert (checkpoint.round, checkpoint.chain) == (3 * EVERY, ledger.links[3 * EVERY].chain)
        kept = one.kept.at_or_before(3 * EVERY)
        assert kept is not None
        flat = np.concatenate([np.asarray(checkpoint.model[p.name]).reshape(-1) for p in BLUEPRINT.parameters])
        assert flat.tobytes() == kept.model.tobytes()
        shapes = {name: np.asarray(values).shape for name, values in checkpoint.model.items()}
        assert shapes == {p.name: BLUEPRINT.shape(p) for p in BLUEPRINT.parameters}

    run(main)


class Full(MemoryStore):
    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        raise StoreError("no space left")


def test_a_full_disk_costs_a_warning():
    async def main() -> None:
        one = parts(store=Full())
        await grown(one, EVERY)
        assert one.state.ledger.tip.round == EVERY
        assert [(w.code, w.text) for w in one.warnings()] == [("store", "no space left; training goes on in memory")]

    run(main)


def test_the_end_of_the_run_may_be_learnt_while_a_round_is_folded():
    """The end takes the round's work away; the fold that is under way must not seal what is gone."""

    async def main() -> None:
        one = parts()
        entry = await one.publish(ones())
        assert entry is not None
        async with asyncio.TaskGroup() as group:
            sealing = group.create_task(sealed(one, entry))
            await asyncio.sleep(0)
            one.state.learn_stop(0)
            await sealing
        assert one.state.ledger.tip.round == 0
        assert one.state.replica.sealed.tobytes() == one.state.algorithm.genesis.tobytes()

    run(main)


# -- following --------------------------------------------------------------------------------------------------------


def test_follow_over_what_i_hold_open():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 5)
        await one.publish(ones(value=9.0))
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)
        assert one.state.replica.residual.sum() == 9.0 * BLUEPRINT.size, "my own work leaves with the next"
        assert one.state.ledger.floor == 6

    run(main)


@pytest.mark.parametrize("rounds", range(1, 6))
def test_rounds_without_work_are_followed_too(rounds):
    """They weigh nothing; being ahead on my own chain is reason enough."""

    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        for _ in range(rounds):
            await sealed(other)
        one.meet(other)
        await at_work(one, 1.0)
        agree(one, other)

    run(main)


def test_what_my_own_open_sets_give_is_sealed_without_asking():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 3)
        for round_ in (1, 2, 3):
            for entry in other.state.ledger.sealed_entries(round_) or ():
                copied(entry, one)
        one.meet(other)
        await at_work(one, 1.0)
        agree(one, other)
        assert wire.calls == []

    run(main)


def test_far_behind_a_snapshot_is_taken_and_the_rest_followed():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 3 * EVERY + 2)
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)
        assert one.kept.oldest_round == 3 * EVERY
        assert one.warnings() == [], "a joiner has lost nothing"
        snapshot = other.state.ledger.links[3 * EVERY].chain.hex()
        assert f"/v1/snapshots/{snapshot}/0" in wire.paths()

    run(main)


def test_an_answer_that_does_not_fit_is_no_fork():
    """Found by churn (digits, 16 nodes, seed 1): another holder's links, and then a switch where nothing forked."""

    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 5)
        for entry in [e for r in range(1, 4) for e in other.state.ledger.sealed_entries(r) or ()]:
            await sealed(one, copied(entry, one))
        answers = [Reply(200, encode_links(other.state.ledger.links_after(4, 1)))]
        wire.fault = lambda _, request: answers.pop() if request.path == "/v1/links" and answers else None
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)
        assert one.warnings() == []

    run(main)


def test_payloads_that_are_gone_are_made_up_for_by_a_snapshot():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 2 * EVERY)
        other.state.ledger.forget_payloads(2 * EVERY)
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)

    run(main)


def test_a_damaged_snapshot_is_taken_from_somebody_else():
    async def main() -> None:
        wire = Wire()
        one, liar, other = parts(wire), parts(wire, 2), parts(wire, 3)
        await grown(other, 3 * EVERY)
        liar.state.ledger.install(other.state.ledger.links, Grafts())
        kept = other.kept.at_or_before(3 * EVERY)
        assert kept is not None
        liar.kept.keep(replace(kept, model=kept.model + np.float32(1.0)), 0.0)
        one.meet(liar, other)
        await at_work(one, 3.0)
        agree(one, other)

    run(main)


@pytest.mark.parametrize(("refusals", "is_had"), [(RESTS_MAX - 1, True), (RESTS_MAX, False)])
def test_a_snapshot_of_busy_holders_is_waited_for_rests_max_times(refusals, is_had):
    async def main() -> None:
        wire, asked_s = Wire(), []
        one, other = parts(wire), parts(wire, 2)
        await grown(other, EVERY)
        kept = other.kept.at_or_before(EVERY)
        assert kept is not None

        def refuse(address: str, request: Request) -> Reply | None:
            asked_s.append(asyncio.get_running_loop().time())
            return Reply(503, b"busy") if len(asked_s) <= refusals else None

        wire.fault = refuse
        one.meet(other)
        pull = Pull(one.state, one.calls)
        if is_had:
            model, _ = await pull.model(other.me, kept.manifest)
            assert model.tobytes() == kept.model.tobytes()
        else:
            with pytest.raises(WireError):
                await pull.model(other.me, kept.manifest)
        assert asked_s == [turn * REST_S for turn in range(RESTS_MAX)]

    run(main)


@pytest.mark.parametrize("error", [StoreError("no memory"), ZeroDivisionError()])
def test_what_goes_wrong_here_while_a_snapshot_comes_is_not_the_others_fault(error):
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, EVERY)
        kept = other.kept.at_or_before(EVERY)
        assert kept is not None

        async def fail(*_: object, **__: object) -> None:
            raise error

        one.state.doors.compute.run = fail  # type: ignore[method-assign, assignment]
        one.meet(other)
        with pytest.raises(type(error)):
            await Pull(one.state, one.calls).model(other.me, kept.manifest)

    run(main)


def test_a_snapshot_with_numbers_that_are_not_finite_is_not_taken():
    async def main() -> None:
        wire = Wire()
        one, liar = parts(wire), parts(wire, 2)
        liar.state.replica.sealed = ones(value=float("nan"))
        await grown(liar, 3 * EVERY)
        one.meet(liar)
        await at_work(one, 5.0)
        assert one.state.ledger.tip.round == 0
        assert any(path.endswith("/0") for path in wire.paths()), "it was looked at"

    run(main)


# -- switching --------------------------------------------------------------------------------------------------------


async def forked(wire: Wire, common: int, mine: int, theirs: int) -> tuple[Parts, Parts]:
    """Two nodes whose chains agree on `common` rounds and then go on alone."""
    one, other = parts(wire), parts(wire, 2)
    for round_ in range(common):
        entry = await one.publish(ones(value=float(round_)))
        assert entry is not None
        same = copied(entry, other)
        await sealed(one, entry)
        await sealed(other, same)
    await grown(one, mine)
    await grown(other, theirs)
    one.meet(other)
    other.meet(one)
    return one, other


@pytest.mark.parametrize(("common", "mine", "theirs"), [(0, 1, 2), (3, 2, 4), (0, 5, 9), (EVERY + 1, 2, 3), (6, 4, 5)])
def test_the_lighter_chain_gives_way(common, mine, theirs):
    async def main() -> None:
        one, other = await forked(Wire(), common, mine, theirs)
        before = other.state.ledger.tip
        await at_work(other, 2.0)
        assert other.state.ledger.tip == before, "the heavier one stays"
        await at_work(one, 4.0)
        agree(one, other)
        assert one.warnings()[0].code == "switched"
        assert f"{mine} contributions that mine had sealed since round {common} come back" in one.warnings()[0].text
        assert one.state.replica.residual.sum() == 0, "a graft will bring it, so nobody sends it again"
        assert one.kept.oldest_round <= common

    run(main)


def test_a_heavier_chain_may_be_shorter():
    async def main() -> None:
        one, other = await forked(Wire(), EVERY - 1, 0, 1)
        for _ in range(3):
            await sealed(one)
        lost = one.state.ledger.links[EVERY].chain
        assert one.kept.by_chain(lost) is not None
        floor = one.state.ledger.floor
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)
        assert one.state.ledger.tip.round == EVERY
        assert one.kept.by_chain(lost) is None
        assert one.kept.by_chain(one.state.ledger.tip.chain) is not None
        assert one.state.ledger.floor == floor > EVERY + 1

    run(main)


def test_snapshots_of_the_chain_that_gave_way_are_not_kept():
    async def main() -> None:
        one, other = await forked(Wire(), EVERY - 2, 0, 1)
        for _ in range(4):
            await sealed(one)
        lost = one.state.ledger.links[EVERY].chain
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)
        assert (one.state.ledger.tip.round, one.kept.by_chain(lost)) == (EVERY - 1, None)
        assert one.kept.at_or_before(10**9) is one.kept.at_or_before(EVERY - 2)

    run(main)


def test_equally_heavy_chains_are_told_apart_by_their_name():
    async def main() -> None:
        one, other = await forked(Wire(), 2, 3, 3)
        loser, winner = sorted((one, other), key=lambda node: node.state.ledger.tip.chain)
        await at_work(winner, 2.0)
        await at_work(loser, 4.0)
        agree(loser, winner)
        assert winner.warnings() == []

    run(main)


def test_a_fork_older_than_what_is_kept_is_left_by_a_snapshot():
    async def main() -> None:
        one, other = await forked(Wire(), 1, 3 * EVERY, 3 * EVERY + 3)
        await at_work(one, 4.0)
        agree(one, other)
        assert one.warnings()[0].code == "switched"
        assert f"{3 * EVERY} contributions that mine had sealed since round 1 come back" in one.warnings()[0].text
        assert len(one.state.ledger.losses) == 1

    run(main)


def test_a_heavier_chain_that_grows_lighter_is_not_taken():
    """Heavier when it was told of, no more when everything is here: mine has grown meanwhile."""

    async def main() -> None:
        wire = Wire()
        one, other = await forked(wire, 0, 2, 3)
        fetched = asyncio.Event()
        answer = other.serving.handle

        async def slow(request: Request) -> Reply:
            if request.path.startswith("/v1/contributions"):
                await fetched.wait()
            return await answer(request)

        wire.handlers[other.address] = slow
        async with asyncio.TaskGroup() as group:
            task = group.create_task(at_work(one, 2.0))
            await until(0.5)
            await grown(one, 4)
            fetched.set()
            await task
        assert one.state.ledger.tip.round == 6
        assert one.state.replica.sealed.tobytes() == folded(one).tobytes()

    run(main)


# -- lies -------------------------------------------------------------------------------------------------------------


def told(liar: Parts, links: list[Link]) -> None:
    """The liar's chain is whatever it says, its report too."""
    liar.state.ledger.links[1:] = links
    liar.state.ledger.newest = links[-1].round


async def entry_of(author: Parts, round_: int, value: float = 1.0) -> Entry:
    author.state.ledger.last = max(author.state.ledger.last, round_ - 1)
    entry = await author.publish(ones(value=value))
    assert entry is not None
    assert entry.manifest.round == round_
    return entry


Links = tuple[list[Link], list[Link]]
"""A chain, and what of it may be followed."""


async def false_weight(liar: Parts, genesis: Link) -> Links:
    """The chain itself is right: it is sealed, with the weight that its contributions give."""
    link = link_after(genesis, [await entry_of(liar, 1)])
    return [replace(link, weight=link.weight + 1)], [link]


async def false_chain(liar: Parts, genesis: Link) -> Links:
    return [replace(link_after(genesis, [await entry_of(liar, 1)]), chain=bytes(32))], []


async def no_chain(liar: Parts, genesis: Link) -> Links:
    first = link_after(genesis, [await entry_of(liar, 1)])
    return [first, replace(link_after(first), chain=bytes(32))], []


async def other_round(liar: Parts, genesis: Link) -> Links:
    return [link_after(genesis, [await entry_of(liar, 2)])], []


async def counted_twice(liar: Parts, genesis: Link) -> Links:
    entry = await entry_of(liar, 1)
    first = link_after(genesis, [entry])
    return [first, link_after(first, [entry])], [first]


async def two_of_one_author(liar: Parts, genesis: Link) -> Links:
    first = await entry_of(liar, 1)
    liar.state.ledger = parts(index=2).state.ledger
    second = await entry_of(liar, 1, 2.0)
    copied(first, liar)
    return [link_after(genesis, [first, second])], []


async def nobody_has_it(liar: Parts, genesis: Link) -> Links:
    entry = await entry_of(liar, 1)
    del liar.state.ledger.entries[entry.id]
    return [link_after(genesis, [entry])], []


LIES: list[Callable] = [
    false_weight, false_chain, no_chain, other_round, counted_twice, two_of_one_author, nobody_has_it,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_chain_that_cannot_be_is_not_followed(lie):
    """And it never stops the node."""

    async def main() -> None:
        wire = Wire()
        one, liar = parts(wire), parts(wire, 2)
        links, honest = await lie(liar, one.state.ledger.tip)
        told(liar, links)
        one.meet(liar)
        await at_work(one, 40.0)
        assert one.state.ledger.links[1:] == honest
        assert one.state.replica.sealed.tobytes() == folded(one).tobytes()

    run(main)


@pytest.mark.parametrize("lie", LIES)
def test_a_chain_that_cannot_be_is_not_switched_to(lie):
    """It claims more weight than mine has."""

    async def main() -> None:
        wire = Wire()
        one, liar = parts(wire), parts(wire, 2)
        links, _ = await lie(liar, one.state.ledger.tip)
        await grown(one, 1)
        mine = one.state.ledger.tip
        told(liar, [replace(link, weight=link.weight + 10**9) for link in links])
        one.meet(liar)
        await at_work(one, 40.0)
        assert one.state.ledger.links[1:] == [mine]
        assert one.state.replica.sealed.tobytes() == folded(one).tobytes()
        assert one.warnings() == []

    run(main)


@pytest.mark.parametrize("reply", [Reply(404, b"unknown"), Reply(200, b"nonsense"), Reply(200, encode_links(()))])
def test_who_has_no_links_is_left_alone_for_a_while(reply):
    async def main() -> None:
        wire = Wire()
        one, liar = parts(wire), parts(wire, 2)
        told(liar, [link_after(one.state.ledger.tip, [await entry_of(liar, 1)])])
        wire.fault = lambda address, request: reply
        one.meet(liar)
        await at_work(one, 10.0)
        assert one.state.ledger.tip.round == 0
        assert 1 < len(wire.calls) <= 25

    run(main)


def test_an_honest_member_is_followed_while_a_liar_claims_more():
    async def main() -> None:
        wire = Wire()
        one, liar, other = parts(wire), parts(wire, 2), parts(wire, 3)
        await grown(other, 4)
        chain = next_chain(one.state.ledger.tip.chain, [bytes(32)])
        told(liar, [Link(round=1, chain=chain, weight=2**40, ids=(bytes(32),))])
        one.meet(liar, other)
        await at_work(one, 10.0)
        agree(one, other)

    run(main)


def test_a_config_with_rare_snapshots():
    async def main() -> None:
        wire, config = Wire(), NodeConfig(run=RunConfig(snapshot_every_rounds=2))
        one, other = parts(wire, config=config), parts(wire, 2, config=config)
        await grown(other, 9)
        one.meet(other)
        await at_work(one, 3.0)
        agree(one, other)
        assert one.kept.oldest_round == 8

    run(main)
