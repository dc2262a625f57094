"""What the parts share: the report and its beat, who votes, who arrived, and the bells."""

from __future__ import annotations

import asyncio

import pytest

from p2pfusion.config import DIGESTS_PER_REPORT_MAX, OPEN_ROUNDS_MAX, NodeConfig
from p2pfusion.node.events import PeerEvent
from p2pfusion.node.state import ANSWERS_PROOF, INCARNATION_MAX, Bell
from p2pfusion.sim.loop import run
from p2pfusion.swarm.membership import Change
from p2pfusion.wire.codec import encode_gossip
from p2pfusion.wire.messages import FLOOR_NEVER, Gossip, Rumour
from tests.node.parts import copied, ones, parts, seen, until
from tests.swarm.made import peer, piece, put, report, seal, shard_report

# -- bells ------------------------------------------------------------------------------------------------------------


def test_a_bell_wakes_once_however_often_it_rang():
    async def main() -> list[bool]:
        bell = Bell()
        bell.ring()
        bell.ring()
        return [await bell.wait(1.0), await bell.wait(1.0)]

    assert run(main) == [True, False]


def test_a_bell_that_rings_while_somebody_waits():
    async def main() -> tuple[bool, float]:
        bell, loop = Bell(), asyncio.get_running_loop()
        loop.call_later(0.3, bell.ring)
        return await bell.wait(1.0), loop.time()

    assert run(main) == (True, 0.3)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_bell_is_asked_without_waiting(timeout_s):
    async def main() -> tuple[bool, float]:
        return await Bell().wait(timeout_s), asyncio.get_running_loop().time()

    assert run(main) == (False, 0.0)


# -- my own line ------------------------------------------------------------------------------------------------------


def test_the_beat_rises_when_something_changed_or_a_sign_of_life_is_wanted():
    async def main() -> None:
        one = parts().state
        assert [one.report().beat for _ in range(3)] == [1, 1, 1]
        assert [one.report(is_beat=True).beat for _ in range(2)] == [2, 3]
        one.role = "draining"
        assert [one.report().beat for _ in range(2)] == [4, 4]
        one.ledger.saw_round(5)
        assert one.report().beat == 5

    run(main)


def test_the_line_says_where_i_stand():
    async def main() -> None:
        one = parts()
        entry = await one.publish(ones())
        assert entry is not None
        line = one.state.report()
        (shard,) = line.shards
        ledger = one.state.ledger
        assert (line.peer, line.name, line.addresses, line.role) == (one.me, "node-1", (one.address,), "trains")
        assert (shard.tip_round, shard.tip_chain, shard.tip_weight) == (0, ledger.tip.chain, 0)
        assert (shard.newest, shard.floor, shard.digests) == (1, 2, ((1, ledger.digest(1)),))
        assert shard.model_hash == one.state.model_hash
        one.state.learn_stop(1)
        assert (one.state.report().stop, one.state.report().shards[0].floor) == (1, FLOOR_NEVER)

    run(main)


def test_a_line_with_as_many_open_rounds_as_there_can_be_fits_the_wire():
    async def main() -> None:
        one = parts()
        for round_ in range(1, OPEN_ROUNDS_MAX + 1):
            put(one.state.ledger, piece(round_, 5))
        line = one.state.report()
        assert len(line.shards[0].digests) == DIGESTS_PER_REPORT_MAX == OPEN_ROUNDS_MAX
        assert encode_gossip(Gossip(run_id=one.state.run_id, sender=one.me, reports=(line,)))

    run(main)


# -- the others -------------------------------------------------------------------------------------------------------


def test_who_votes():
    async def main() -> None:
        one = parts().state
        for member, role in ((2, "trains"), (3, "syncing"), (4, "draining")):
            one.membership.observe(report(member, role=role, shard=shard_report(floor=member)), 0.0)
        assert [line.floor for line in one.lines()] == [2, 3, 4], "before the first seal all of them do"
        seal(one.ledger)
        assert [line.floor for line in one.lines()] == [2, 4]
        one.membership.accuse(peer(2), 2.0)
        assert [(line.floor, line.is_suspect) for line in one.lines()] == [(2, True), (4, False)]
        one.membership.tick(6.0)  # the suspicion time
        assert [line.floor for line in one.lines()] == [4]

    run(main)


def test_changes_are_told_and_everybody_looks_again():
    async def main() -> None:
        one = parts().state
        one.spoken.told(peer(2), [report(3)])
        await until(1.5)
        one.tell([Change(peer(2), "node-2", "alive")])
        assert one.newcomer_s == 1.5
        assert one.spoken.news(peer(2), [report(3)]) == ()
        await until(2.0)
        for status in ("suspect", "dead", "left"):
            one.tell([Change(peer(2), "node-2", status)])
        assert one.newcomer_s == 1.5, "nobody came"
        assert one.spoken.news(peer(2), [report(3)]) == (report(3),), "should it return, it is told everything"
        hex_id = peer(2).hex()
        assert seen(one) == [PeerEvent("node-2", hex_id, s) for s in ("alive", "suspect", "dead", "left")]
        assert [await bell.wait(0.0) for bell in one.bells.values()] == [True] * len(one.bells)
        one.tell([])
        assert [await bell.wait(0.0) for bell in one.bells.values()] == [False] * len(one.bells)

    run(main)


@pytest.mark.parametrize(
    ("rumour", "incarnation"),
    [
        (Rumour(peer(1), 0, "suspect", peer(2)), 1),
        (Rumour(peer(1), 1, "suspect", peer(2)), 2),
        (Rumour(peer(1), 7, "dead", peer(2)), 8),
        (Rumour(peer(1), 1, "left", peer(1)), 2),
        (Rumour(peer(1), INCARNATION_MAX, "dead", peer(2)), 1),
        (Rumour(peer(1), INCARNATION_MAX - 1, "dead", peer(2)), INCARNATION_MAX),
    ],
)
def test_what_is_said_of_me_wrongly_is_contradicted_once(rumour, incarnation):
    async def main() -> None:
        one = parts().state
        one.refute(rumour)
        one.refute(rumour)
        assert one.incarnation == incarnation
        assert one.prober.awareness == (incarnation > 1)
        assert await one.bells["gossip"].wait(0.0) == (incarnation > 1)
        assert encode_gossip(Gossip(run_id=one.run_id, sender=one.me, reports=(one.report(),)))

    run(main)


@pytest.mark.parametrize("addresses", [("10.0.0.1:7000",), ("elsewhere",)])
@pytest.mark.parametrize("incarnation", [4, 5, 6])
@pytest.mark.parametrize("is_direct", [True, False])
def test_a_report_about_me_that_i_did_not_make(addresses, incarnation, is_direct):
    async def main() -> None:
        one = parts()
        one.state.incarnation = 5
        one.state.report()
        line = report(1, 0, incarnation=incarnation, addresses=addresses)
        one.state.seen_myself(line, is_direct=is_direct)
        is_other = incarnation == 6 or (incarnation == 5 and addresses == ("elsewhere",))
        assert one.state.incarnation == (incarnation + 1 if is_other else 5)
        assert len(one.warnings()) == (is_other and is_direct)
        one.state.seen_myself(line, is_direct=is_direct)
        assert len(one.warnings()) == (is_other and is_direct), "once, and not by old words"

    run(main)


def test_several_old_lives_are_no_copy():
    async def main() -> None:
        one = parts()
        for starts in (3, 7, 9):
            one.state.seen_myself(report(1, incarnation=starts << 20), is_direct=False)
        assert (one.state.incarnation, one.warnings()) == ((9 << 20) + 1, [])
        one.state.seen_myself(report(1, incarnation=(9 << 20) + 2), is_direct=False)
        assert [w.code for w in one.warnings()] == ["copied-state"]

    run(main)


@pytest.mark.parametrize(
    ("role", "address", "is_displaced"),
    [("syncing", "10.0.0.0:7000", True), ("syncing", "10.0.0.2:7000", False), ("trains", "10.0.0.2:7000", True)],
)
@pytest.mark.parametrize("answers", [0, 1, ANSWERS_PROOF])
def test_which_of_two_is_the_one_to_go(role, address, is_displaced, answers):
    """Who speaks as me, or answers me time and again, lives; a single answer may be an older life of mine."""

    async def main() -> None:
        one = parts().state
        one.addresses = ("10.0.0.1:7000",)
        one.report()
        for number in range(answers + 1 if answers else 1):
            line = report(1, incarnation=one.incarnation + number, addresses=(address,), role=role)
            one.seen_myself(line, is_direct=not answers)
        assert one.is_displaced == (is_displaced and answers != 1)
        assert one.doubted_s == one.now_s()

    run(main)


def test_nobody_can_raise_my_incarnation_beyond_the_wire():
    async def main() -> None:
        one = parts().state
        one.seen_myself(report(1, incarnation=INCARNATION_MAX), is_direct=False)
        assert one.incarnation == 1

    run(main)


def test_the_smallest_known_end_wins():
    async def main() -> None:
        one = parts(config=NodeConfig(until_rounds=9)).state
        assert (one.stop_round, one.ledger.limit) == (9, 9)
        one.learn_stop(12)
        assert (one.stop_round, one.ledger.limit) == (9, 9)
        one.learn_stop(4)
        assert (one.stop_round, one.ledger.limit) == (4, 4)

    run(main)


def test_who_arrived_in_open_and_sealed_rounds():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        for author in (one, other):
            entry = await author.publish(ones())
            assert entry is not None
            copied(entry, one)
        put(one.state.ledger, piece(1, 9), complete=False)
        assert list(one.state.arrived(1)) == [one.me, other.me]
        seal(one.state.ledger)
        assert list(one.state.arrived(1)) == [one.me, other.me]
        assert list(one.state.arrived(2)) == []
        one.state.ledger.forget_payloads(1)
        assert list(one.state.arrived(1)) == []

    run(main)


def test_what_is_complete_teaches_patience_or_is_late():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await other.publish(ones())
        assert entry is not None
        one.state.cadence.published(1, [other.me], [], 0.0)
        one.state.wanted.offer(entry.id, other.me, None)
        await until(0.7)
        one.state.completed(copied(entry, one))
        assert one.state.cadence.patience_s == 0.7
        assert entry.id not in one.state.wanted
        assert one.state.late == 0
        seal(one.state.ledger)
        one.state.completed(entry)
        assert one.state.late == 1

    run(main)
