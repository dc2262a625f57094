"""Payloads beyond their limit: to disk where there is one, sealed ones away where there is none, then no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from p2pfusion.config import NodeConfig
from p2pfusion.node.decoding import values_of
from p2pfusion.node.memory import HARD_SHARE, Memory
from p2pfusion.sim.loop import run
from p2pfusion.store.folder import FolderStore
from p2pfusion.swarm.gate import judge_segment
from p2pfusion.wire.compression import encode
from tests.node.parts import BLUEPRINT, Parts, at_work, changed, copied, ones, parts, until
from tests.swarm.made import peer

PAYLOAD_BYTES = BLUEPRINT.size * 4
LIMIT = 3 * PAYLOAD_BYTES


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(NodeConfig, "__post_init__", lambda self: None)


def limited(**values: object) -> Parts:
    return parts(config=NodeConfig(ledger_bytes_max=LIMIT), **values)


async def shrunk(one: Parts) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Memory(one.state).run())
        await until(asyncio.get_running_loop().time() + 2.0)
        task.cancel()


async def published(one: Parts, rounds: int, *, author: int = 2) -> Parts:
    """Others' open work arrives, a payload a round."""
    other = parts(index=author)
    for _ in range(rounds):
        entry = await other.publish(ones())
        assert entry is not None
        copied(entry, one)
    return other


def test_at_the_limit_nothing_happens_and_beyond_it_the_oldest_goes_to_disk(tmp_path):
    async def main() -> None:
        with FolderStore(tmp_path) as store:
            one = limited(store=store)
            await published(one, 3)
            await shrunk(one)
            assert one.state.ledger.held_bytes == LIMIT
            await published(one, 2, author=3)
            await shrunk(one)
            assert one.state.ledger.held_bytes <= LIMIT
            spilled = [e for e in one.state.ledger.entries.values() if isinstance(e.segments[0], memoryview)]
            assert {e.manifest.round for e in spilled} == {1}
            for entry in spilled:
                assert bytes(entry.segments[0]) == encode("fp32", ones())[0]
                assert judge_segment(entry.manifest, 0, entry.segments[0], one.state.blueprint) is None
            assert not one.state.is_full
            assert one.warnings() == []

    run(main)


def test_a_chain_folds_the_same_from_disk(tmp_path):
    async def sealed_model(one: Parts, shrink: Callable) -> bytes:
        for _ in range(6):
            assert await one.publish(ones()) is not None
        await shrink(one)
        await at_work(one, asyncio.get_running_loop().time() + 2.0)
        assert one.state.ledger.tip.round == 6
        return one.state.replica.sealed.tobytes()

    async def nothing(one: Parts) -> None: ...

    async def main() -> None:
        with FolderStore(tmp_path) as store:
            assert await sealed_model(limited(store=store), shrunk) == await sealed_model(parts(), nothing)

    run(main)


def test_without_a_disk_sealed_payloads_go_first_and_then_new_work_waits():
    async def main() -> None:
        one = limited()
        for _ in range(4):
            assert await one.publish(ones()) is not None
        await at_work(one, 1.0)
        assert one.state.ledger.tip.round == 4
        await shrunk(one)
        assert one.state.ledger.held_bytes <= LIMIT
        assert one.state.ledger.sealed_entries(1) is None
        assert one.state.ledger.sealed_entries(4) is not None
        other = await published(one, 4 + HARD_SHARE * 3 + 1)
        await shrunk(one)
        assert one.state.is_full
        assert [w.code for w in one.warnings()] == ["memory-full"]
        more = await other.publish(ones())
        assert more is not None
        one.state.wanted.offer(more.id, other.me, None)
        assert not one.gossiping.admit(more.id, more.manifest)
        assert more.id not in one.state.wanted, "or it would be asked for again and again"
        next_ = changed(more.manifest, round=one.state.ledger.tip.round + 1, base_round=0, peer=peer(9))
        assert one.gossiping.admit(*next_), "what is sealed next makes room"
        one.state.needed[more.id] = None
        assert one.gossiping.admit(more.id, more.manifest), "what a link counts is taken all the same"
        for entry in [e for e in one.state.ledger.entries.values() if e.manifest.peer == other.me]:
            one.state.ledger._forget(entry.id)
            one.state.ledger.open.get(entry.manifest.round, {}).pop(entry.id, None)
        await shrunk(one)
        assert not one.state.is_full

    run(main)


def test_own_sealed_work_is_held_and_goes_to_disk_like_any_other(tmp_path):
    """Its round's payloads are forgotten after a snapshot; its author keeps it, and may be asked for it by a switch."""

    async def main() -> None:
        with FolderStore(tmp_path) as store:
            one = limited(store=store)
            for _ in range(5):
                assert await one.publish(ones()) is not None
            await at_work(one, 1.0)
            ledger = one.state.ledger
            ledger.forget_payloads(ledger.tip.round)
            assert ledger.entries == {}
            assert [e.manifest.round for e in ledger.pinned.values()] == [1, 2, 3, 4, 5]
            assert ledger.held_bytes == sum(entry.held_bytes for entry in ledger.held()) > LIMIT
            await shrunk(one)
            assert ledger.held_bytes == sum(entry.held_bytes for entry in ledger.held()) <= LIMIT
            assert not one.state.is_full
            for entry in ledger.pinned.values():
                assert values_of(BLUEPRINT, entry).tolist() == ones().tolist(), "read from wherever it is"

    run(main)


def test_without_a_disk_own_sealed_work_goes_with_its_round_and_open_work_never():
    async def main() -> None:
        one = limited()
        for _ in range(3):
            assert await one.publish(ones()) is not None
        await at_work(one, 1.0)
        ledger = one.state.ledger
        assert (ledger.tip.round, ledger.held_bytes) == (3, LIMIT)
        for _ in range(4):
            assert await one.publish(ones()) is not None
        await shrunk(one)
        assert [e.manifest.round for e in ledger.pinned.values()] == [4, 5, 6, 7]
        assert ledger.held_bytes == sum(entry.held_bytes for entry in ledger.held()) > LIMIT

    run(main)


def test_ledger_bytes_max_is_checked(monkeypatch):
    monkeypatch.undo()
    assert replace(NodeConfig(), ledger_bytes_max=1 << 20).ledger_bytes_max == 1 << 20
    with pytest.raises(Exception, match="ledger_bytes_max"):
        NodeConfig(ledger_bytes_max=(1 << 20) - 1)
