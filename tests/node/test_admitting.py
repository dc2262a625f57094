"""Contributions that travel inside calls: few elements are judged on the loop, the rest beside it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3

from p2pfusion.config import FRESH_PER_CALL_MAX, GOSSIP_BYTES_MAX, NodeConfig
from p2pfusion.node import admitting, judging
from p2pfusion.node.admitting import BESIDE_ELEMENTS_MAX
from p2pfusion.node.judging import LOOP_ELEMENTS_MAX, Judging, elements_of
from p2pfusion.sim.doors import SimCompute
from p2pfusion.sim.loop import run
from p2pfusion.swarm.gate import judge_segment
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import encode_gossip
from p2pfusion.wire.compression import Coding, encode
from p2pfusion.wire.messages import Contribution, Gossip, SegmentInfo
from tests.node.parts import BLUEPRINT, Parts, changed, ones, parts
from tests.sim.learners import light_blueprint
from tests.swarm.made import peer

HUGE = light_blueprint(1024)
"""529,408 elements: one segment of `stc`."""
BOMB = encode("stc", np.ones(HUGE.size, np.float32), Coding(density=1.0))
FP32 = NodeConfig(codec="fp32")


def said(by: Parts, *entries: tuple[Contribution, tuple[bytes, ...]]) -> Gossip:
    made = [(changed(manifest), segments) for manifest, segments in entries]
    fresh, inline = tuple(m for (_, m), _ in made), tuple((id_, segments) for (id_, _), segments in made)
    return Gossip(run_id=by.state.run_id, sender=by.me, fresh=fresh, inline=inline)


def of(entry: Entry) -> tuple[bytes, ...]:
    return tuple(bytes(segment or b"") for segment in entry.segments)


async def bombs(by: Parts, count: int) -> list[Contribution]:
    entry = await by.publish(np.ones(HUGE.size, np.float32), HUGE.whole())
    assert entry is not None
    infos = tuple(SegmentInfo(blake3(segment).digest(), len(segment)) for segment in BOMB)
    return [replace(entry.manifest, codec="stc", segments=infos, peer=peer(100 + n)) for n in range(count)]


@pytest.fixture
def on_loop(monkeypatch) -> list[int]:
    """Elements of each segment judged on the loop when a call comes in."""
    elements: list[int] = []

    def counted(manifest, index, data, blueprint):
        elements.append(elements_of(manifest, index, blueprint))
        return judge_segment(manifest, index, data, blueprint)

    monkeypatch.setattr(admitting, "judge_segment", counted)
    return elements


def test_a_few_bytes_that_open_to_very_many_elements_are_judged_beside_the_loop(on_loop):
    """32 of them in one call: as many as may wait come in without being asked for, the one beyond is fetched."""
    waiting = BESIDE_ELEMENTS_MAX // HUGE.size
    assert waiting == FRESH_PER_CALL_MAX - 1
    assert len(BOMB) == 1
    assert len(BOMB[0]) < 100

    async def main() -> None:
        one = parts(blueprint=HUGE, config=FP32)
        made = await bombs(one, FRESH_PER_CALL_MAX)
        message = said(one, *((manifest, BOMB) for manifest in made))
        assert len(encode_gossip(message)) < GOSSIP_BYTES_MAX
        async with asyncio.TaskGroup() as group:
            other = parts(index=2, blueprint=HUGE, group=group)
            other.gossiping.absorb(message)
            assert on_loop == []
            assert other.gossiping.admitting._beside_elements == waiting * HUGE.size
        ledger = other.state.ledger
        assert {entry.id for entry in ledger.counted(1)} == {changed(manifest)[0] for manifest in made[:-1]}
        assert list(other.state.wanted.segments(ledger)) == [(changed(made[-1])[0], 0, [one.me])]
        assert other.gossiping.admitting._beside_elements == 0

    run(main)


@pytest.mark.parametrize(("elements_max", "expected"), [(2 * BLUEPRINT.size, 2), (2 * BLUEPRINT.size - 1, 1), (0, 0)])
def test_all_that_one_call_brings_shares_what_is_judged_on_the_loop(on_loop, monkeypatch, elements_max, expected):
    monkeypatch.setattr(admitting, "LOOP_ELEMENTS_MAX", elements_max)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            one, other = parts(), parts(index=2, group=group)
            entry = await one.publish(ones())
            assert entry is not None
            pair = [replace(entry.manifest, peer=peer(100 + n)) for n in range(2)]
            other.gossiping.absorb(said(one, *((manifest, of(entry)) for manifest in pair)))
            assert on_loop == [BLUEPRINT.size] * expected
        assert len(other.state.ledger.counted(1)) == 2

    run(main)


def test_a_wrong_segment_judged_beside_the_loop_is_as_good_as_none():
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            one, other = parts(blueprint=HUGE, config=FP32), parts(index=2, blueprint=HUGE, group=group)
            (manifest,) = await bombs(one, 1)
            mine = replace(manifest, peer=one.me)
            other.gossiping.absorb(said(one, (mine, (BOMB[0][:-1] + b"x",))))
        assert list(other.state.wanted.segments(other.state.ledger)) == [(changed(mine)[0], 0, [one.me])]

    run(main)


def test_what_is_given_up_while_it_is_judged_leaves_nothing_behind():
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            one, other = parts(blueprint=HUGE, config=FP32), parts(index=2, blueprint=HUGE, group=group)
            (manifest,) = await bombs(one, 1)
            mine = replace(manifest, peer=one.me)
            other.gossiping.absorb(said(one, (mine, BOMB)))
            other.state.ledger.drop(changed(mine)[0])
        assert other.state.ledger.entries == {}
        assert changed(mine)[0] not in other.state.wanted
        assert other.gossiping.admitting._beside_elements == 0

    run(main)


@pytest.mark.parametrize(("elements_max", "runs"), [(BLUEPRINT.size, 0), (BLUEPRINT.size - 1, 1)])
def test_loop_elements_max(monkeypatch, elements_max, runs):
    """Of what is fetched, too."""
    monkeypatch.setattr(judging, "LOOP_ELEMENTS_MAX", elements_max)
    lanes = []

    class Noting(SimCompute):
        async def run(self, work, *, cost_s=0.0, lane="train"):
            lanes.append(lane)
            return await super().run(work, cost_s=cost_s, lane=lane)

    async def main() -> None:
        entry = await parts().publish(ones())
        assert entry is not None
        async with asyncio.TaskGroup() as group:
            judge = Judging(Noting(), BLUEPRINT, group).reason
            data = of(entry)[0]
            assert await judge(entry.manifest, 0, memoryview(data)) is None
            assert await judge(entry.manifest, 0, memoryview(b"x" + data[1:])) == "hash"

    run(main)
    assert lanes == ["gate"] * 2 * runs
    assert HUGE.size > LOOP_ELEMENTS_MAX
