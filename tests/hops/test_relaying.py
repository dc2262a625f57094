"""A relay at its queue: who may sit there, what is refused, and what becomes of batches when owners move on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.config import MICRO_BATCHES_MAX
from p2pfusion.core.splitting import Copy
from p2pfusion.errors import TaskError, WireError
from p2pfusion.hops import relaying
from p2pfusion.hops.openings import LATE_MIN_S, Learnt
from p2pfusion.hops.relaying import (
    ACCEPTED,
    BUSY,
    FULL,
    GONE_S,
    NO_SEAT,
    NOT_YET,
    OLD,
    QUEUE_MAX,
    READY,
    SEATS_MAX,
    Relay,
)  # fmt: skip
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire import tensors
from p2pfusion.wire.hops import Passage, encode_passage, encode_take, encode_word
from tests.hops.made import ROOM, SPLIT, Gated, Outbox, address, device, settle, site, take, word
from tests.node.parts import until

WIDTH = 16
STAGE = range(1, 3)
FEW = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)


def passage(
    owner: int,
    batch: int,
    *,
    epoch: int = 1,
    values: np.ndarray = FEW,
    is_training: bool = True,
    part: int = 0,
    parts: int = 1,
) -> Passage:
    return Passage(
        run=SPLIT.tag, owner=device(owner), epoch=epoch, round=1, batch=batch, part=part, parts=parts,
        is_training=is_training, codec="fp32", shape=values.shape, payload=tensors.encode("fp32", values),
    )  # fmt: skip


class Bench:
    """A relay at work with two shards; rounds are opened by hand."""

    def __init__(self, memory_bytes: int = ROOM) -> None:
        self.compute, self.outbox = Gated(), Outbox()
        self.held: list[int] = []
        self.stirred = 0
        made = site(sender=self.outbox, compute=self.compute, memory_bytes=memory_bytes)
        self.relay = Relay(made, self.held.extend, self._stir)
        self.rounds: dict[int, asyncio.Task[Learnt | None]] = {}

    def _stir(self, shards: range) -> None:
        self.stirred += 1

    async def open(self, *shards: int) -> None:
        loop = asyncio.get_running_loop()
        for shard in shards or STAGE:
            self.rounds[shard] = loop.create_task(self.relay.openings.collect(shard, SPLIT.genesis_of(shard)))
        await settle()

    async def begin(self, *owners: int, epoch: int = 1) -> None:
        """They sit, and their rounds are open."""
        for owner in owners:
            assert self.take(owner, epoch=epoch) in (READY, NOT_YET)
        await self.open()
        assert self.take(owners[0], epoch=epoch) == READY

    def say(self, topic: str, what: bytes) -> Reply | None:
        return self.relay.answer(topic, Request("POST", f"/v1/hops/{topic}", what))

    def take(self, owner: int, first: int = 1, last: int = 2, epoch: int = 1) -> Reply | None:
        return self.say("take", encode_take(take(owner, first, last, epoch=epoch)))

    async def pass_(self, topic: str, *given: int, epoch: int = 1, **changes: object) -> Reply | None:
        owner, batch = given
        reply = self.say(topic, encode_passage(passage(owner, batch, epoch=epoch, **changes)))  # type: ignore[arg-type]
        await settle()
        return reply

    async def word(self, topic: str, owner: int, epoch: int = 1) -> Reply | None:
        reply = self.say(topic, encode_word(word(owner, epoch=epoch)))
        await settle()
        return reply

    async def batch(self, owner: int, number: int, epoch: int = 1) -> None:
        """There and back."""
        assert await self.pass_("forward", owner, number, epoch=epoch) == ACCEPTED
        assert await self.pass_("backward", owner, number, epoch=epoch) == ACCEPTED

    def steps(self) -> int:
        return self.relay.figures.batches


def at_work(main: Callable[[Bench], Awaitable[None]], memory_bytes: int = ROOM) -> None:
    async def whole() -> None:
        bench = Bench(memory_bytes)
        worker = asyncio.get_running_loop().create_task(bench.relay.run())
        await main(bench)
        assert not worker.done()  # whatever came, it goes on
        worker.cancel()

    run(whole, until_s=1000.0)


# -- seats ------------------------------------------------------------------------------------------------------------


def test_who_asks_has_its_shards_held_and_is_ready_when_their_rounds_are_open() -> None:
    async def main(bench: Bench) -> None:
        assert bench.take(1) == NOT_YET
        assert bench.held == [1, 2]
        assert bench.relay.owners_at(1) == bench.relay.owners_at(2) == [device(1)]
        assert bench.relay.observing(3)()
        assert not bench.relay.observing(2)()
        await bench.open(1)
        assert bench.take(1) == NOT_YET
        await bench.open(2)
        assert bench.take(1) == READY

    at_work(main)


def test_there_are_so_many_seats() -> None:
    async def main(bench: Bench) -> None:
        for owner in range(SEATS_MAX):
            assert bench.take(owner) == NOT_YET
        assert bench.take(SEATS_MAX) == FULL
        assert bench.take(3, epoch=2) == NOT_YET  # who sits may stay
        await bench.word("leave", 7)
        assert bench.take(SEATS_MAX) == NOT_YET
        assert bench.relay.figures.copies_most == SEATS_MAX

    at_work(main, memory_bytes=10**9)


def test_nobody_sits_where_memory_ends_and_a_smaller_stage_may_still_fit() -> None:
    async def main(bench: Bench) -> None:
        assert bench.take(1) == NOT_YET
        assert bench.take(2) == FULL
        assert bench.take(2, 1, 1) == FULL
        assert bench.take(1, 1, 3) == FULL  # its own seat moves only where there is room
        assert bench.relay.owners_at(1) == [device(1)]
        assert bench.take(1, 1, 1, epoch=2) == NOT_YET
        assert bench.relay.taken_bytes <= SPLIT.memory_bytes(1, 2, 1)
        assert bench.relay.owners_at(2) == []

    at_work(main, memory_bytes=SPLIT.memory_bytes(1, 2, 1))


def test_other_runs_and_shards_beyond_the_last_are_refused() -> None:
    async def main(bench: Bench) -> None:
        for odd in (take(1, 1, 2, run=bytes(16)), take(1, 1, SPLIT.shards.count)):
            reply = bench.say("take", encode_take(odd))
            assert reply is not None
            assert reply.status == 409
        assert bench.held == []
        assert bench.say("gossip", b"") is None
        with pytest.raises(WireError):
            bench.say("take", b"nonsense")

    at_work(main)


def test_an_old_epoch_is_told_so_and_its_batches_have_no_seat() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1, epoch=3)
        assert bench.take(1, epoch=2) == OLD
        assert await bench.pass_("forward", 1, 1, epoch=2) == NO_SEAT
        assert await bench.pass_("forward", 2, 1, epoch=3) == NO_SEAT
        assert await bench.word("end", 1, epoch=2) == NO_SEAT
        assert await bench.word("leave", 1, epoch=2) == NO_SEAT  # said before it asked again
        assert bench.relay.owners_at(1) == [device(1)]

    at_work(main)


def test_an_owner_that_went_on_to_another_chain_may_leave_without_asking_again() -> None:
    async def main(bench: Bench) -> None:
        assert bench.take(1, epoch=3) == NOT_YET
        assert await bench.word("leave", 1, epoch=5) == ACCEPTED
        assert bench.relay.owners_at(1) == []

    at_work(main)


# -- batches ----------------------------------------------------------------------------------------------------------


def test_a_round_comes_to_what_a_copy_alone_comes_to() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        for number in (1, 2, 3):
            await bench.batch(1, number)
        assert await bench.word("end", 1) == ACCEPTED
        values = np.concatenate([SPLIT.genesis_of(shard) for shard in STAGE])
        alone = Copy(SPLIT.blueprint, SPLIT.shards.run(1, 2), values, SPLIT.recipe(1))
        for _ in range(3):
            alone.forward(torch.from_numpy(FEW))
            alone.backward(torch.from_numpy(FEW))
            alone.step()
        expected = alone.values - values
        learnt = [await bench.rounds[shard] for shard in STAGE]
        assert [one and one.samples for one in learnt] == [12, 12]
        found = np.concatenate([one.delta for one in learnt if one])
        assert (found == expected).all()
        assert np.abs(expected).max() > 0
        assert [topic for topic, _ in bench.outbox.sent()] == ["forward", "backward"] * 3
        assert {to for topic, to, _, _ in bench.outbox.passed if topic == "forward"} == {address(101)}

    at_work(main)


def test_the_gradient_goes_on_before_the_step() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        await bench.pass_("forward", 1, 1)
        steps: list[int] = []
        given = bench.outbox.pass_on
        bench.outbox.pass_on = lambda *args: (steps.append(bench.steps()), given(*args))[0]  # type: ignore[method-assign,assignment,func-returns-value]
        await bench.pass_("backward", 1, 1)
        assert steps == [0]
        assert bench.steps() == 1

    at_work(main)


def test_a_second_batch_waits_outside_while_one_is_computed_and_what_came_twice_is_done_once() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        bench.compute.open.clear()
        assert await bench.pass_("forward", 1, 1) == ACCEPTED
        assert await bench.pass_("forward", 1, 1) == ACCEPTED
        assert await bench.pass_("forward", 1, 2) == BUSY
        bench.compute.open.set()
        await settle()
        assert await bench.pass_("forward", 1, 1) == ACCEPTED
        assert await bench.pass_("backward", 1, 1) == ACCEPTED
        assert await bench.pass_("backward", 1, 1) == ACCEPTED
        await bench.batch(1, 2)
        assert await bench.pass_("forward", 1, 1) == OLD
        assert await bench.pass_("backward", 1, 1) == OLD
        assert bench.outbox.sent() == [("forward", 1), ("backward", 1), ("forward", 2), ("backward", 2)]
        assert bench.outbox.failed == []
        assert bench.steps() == 2

    at_work(main)


def test_a_gradient_of_a_batch_that_never_came_forward_is_refused() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        await bench.pass_("forward", 1, 1)
        assert await bench.pass_("backward", 1, 2) == OLD
        assert await bench.pass_("backward", 1, 1) == ACCEPTED
        assert bench.steps() == 1

    at_work(main)


@pytest.mark.parametrize("topic", ["forward", "backward"])
def test_of_a_tensor_of_a_wrong_shape_its_owner_is_told_and_the_next_batch_goes_through(topic: str) -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        odd, warned = FEW[:, : WIDTH - 1], list[str]()
        bench.relay._site.warn = warned.append
        if topic == "backward":
            await bench.pass_("forward", 1, 1)
        assert await bench.pass_(topic, 1, 1, values=odd) == ACCEPTED
        assert bench.outbox.failed == [(device(1), 1, 1)]
        (text,) = warned
        assert text.startswith("a batch is lost here: ")
        assert "15" in text
        await bench.batch(1, 2)
        assert bench.outbox.sent()[-2:] == [("forward", 2), ("backward", 2)]
        assert (bench.steps(), bench.relay.figures.failures) == (1, 1)

    at_work(main)


def test_a_batch_that_is_only_measured_leaves_nothing_behind() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        for number in (1, 2):
            assert await bench.pass_("forward", 1, number, is_training=False) == ACCEPTED
        assert await bench.word("end", 1) == ACCEPTED
        assert [await bench.rounds[shard] for shard in STAGE] == [None, None]
        assert bench.outbox.sent() == [("forward", 1), ("forward", 2)]

    at_work(main)


def test_a_batch_waits_until_its_shards_are_open_and_then_goes_on() -> None:
    async def main(bench: Bench) -> None:
        bench.take(1)
        assert await bench.pass_("forward", 1, 1) == ACCEPTED
        await bench.open(1)
        assert bench.outbox.sent() == []
        assert await bench.pass_("forward", 1, 2) == BUSY
        await bench.open(2)
        assert bench.outbox.sent() == [("forward", 1)]
        assert await bench.pass_("backward", 1, 1) == ACCEPTED

    at_work(main)


def test_a_batch_that_waited_in_an_epoch_that_is_over_goes_nowhere() -> None:
    async def main(bench: Bench) -> None:
        bench.take(1)
        await bench.pass_("forward", 1, 1)
        bench.take(1, epoch=2)
        await bench.open()
        assert bench.outbox.sent() == []
        await bench.batch(1, 2, epoch=2)
        assert bench.steps() == 1

    at_work(main)


# -- ends and changes of mind -----------------------------------------------------------------------------------------


def test_an_end_comes_behind_the_step_of_the_last_batch() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        await bench.pass_("forward", 1, 1)
        bench.compute.open.clear()
        await bench.pass_("backward", 1, 1)
        await bench.word("end", 1)
        await bench.word("end", 1)  # again does nothing
        assert not bench.rounds[1].done()
        assert bench.take(1) == NOT_YET  # its copy is as good as gone: the next round is another
        bench.compute.open.set()
        learnt = await bench.rounds[1]
        assert learnt is not None
        assert (learnt.samples, bench.steps()) == (4, 1)
        await bench.begin(1, epoch=2)

    at_work(main)


def test_a_new_epoch_while_the_executor_computes_costs_that_batch_and_no_other() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        await bench.batch(1, 1)
        bench.compute.open.clear()
        await bench.pass_("forward", 1, 2)
        assert bench.compute.waiting == 1
        assert bench.take(1, epoch=2) == READY
        bench.compute.open.set()
        await settle()
        assert ("forward", 2) not in bench.outbox.sent()
        await bench.batch(1, 3, epoch=2)
        assert bench.outbox.failed == []
        assert bench.steps() == 2

    at_work(main)


def test_a_step_that_waits_is_made_though_the_epoch_changed() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1, 2)
        await bench.pass_("forward", 1, 1)
        bench.compute.open.clear()
        await bench.pass_("backward", 1, 1)
        bench.take(1, epoch=2)
        bench.compute.open.set()
        await settle()
        await bench.batch(1, 2, epoch=2)
        await bench.word("end", 1, epoch=2)
        await bench.word("leave", 2)
        learnt = await bench.rounds[1]
        assert learnt is not None
        assert bench.steps() == 2

    at_work(main)


def test_a_failure_of_an_epoch_that_is_over_disturbs_nobody() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        bench.compute.open.clear()
        await bench.pass_("forward", 1, 1, values=FEW[:, :3])
        bench.take(1, epoch=2)
        await bench.pass_("forward", 1, 2, epoch=2)
        bench.compute.open.set()
        await settle()
        assert bench.outbox.failed == []
        assert bench.outbox.sent() == [("forward", 2)]
        assert await bench.pass_("backward", 1, 2, epoch=2) == ACCEPTED
        assert bench.steps() == 1

    at_work(main)


def test_who_leaves_in_the_middle_frees_its_copy_and_others_go_on() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1, 2)
        await bench.batch(2, 1)
        await bench.word("end", 2)
        bench.compute.open.clear()
        await bench.pass_("forward", 1, 1)
        before = bench.relay.taken_bytes
        assert await bench.word("leave", 1) == ACCEPTED
        assert bench.relay.taken_bytes < before
        bench.compute.open.set()
        learnt = await bench.rounds[1]
        await settle()
        assert learnt is not None
        assert learnt.copies == 1
        assert ("forward", 1) in bench.outbox.sent()  # of owner 2
        assert bench.outbox.sent().count(("forward", 1)) == 1

    at_work(main)


def test_another_stage_of_the_same_owner_is_another_copy() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        await bench.batch(1, 1)
        assert bench.take(1, 3, 3, epoch=2) == NOT_YET
        await bench.open(3)
        assert await bench.rounds[1] is None  # nobody sits there any more
        await bench.batch(1, 2, epoch=2)
        await bench.word("end", 1, epoch=2)
        learnt = await bench.rounds[3]
        assert learnt is not None
        assert learnt.samples == 4

    at_work(main)


# -- late and gone ----------------------------------------------------------------------------------------------------


def test_what_a_late_copy_learnt_counts_and_its_batch_is_told_to_have_failed() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1, 2)
        for owner in (1, 2):
            await bench.batch(owner, 1)
        await bench.word("end", 1)
        await bench.pass_("forward", 2, 2)
        now_s = asyncio.get_running_loop().time()
        bench.relay.leave_behind(now_s, {device(1), device(2)})
        await settle()
        assert not bench.rounds[1].done()
        for _ in range(3):
            bench.relay.leave_behind(now_s + LATE_MIN_S + 0.01, {device(1), device(2)})
        learnt = await bench.rounds[1]
        assert learnt is not None
        assert (learnt.copies, learnt.samples) == (2, 8)
        await bench.pass_("backward", 2, 2)
        assert bench.outbox.failed == [(device(2), 2, 1)]
        await bench.open()
        await bench.batch(2, 3)
        assert bench.outbox.sent()[-1] == ("backward", 3)

    at_work(main)


def test_a_late_owner_that_sent_nothing_is_not_waited_for() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1, 2)
        await bench.batch(1, 1)
        await bench.word("end", 1)
        bench.relay.leave_behind(asyncio.get_running_loop().time() + LATE_MIN_S + 0.01, {device(1), device(2)})
        learnt = await bench.rounds[1]
        assert learnt is not None
        assert learnt.copies == 1
        assert bench.relay.owners_at(1) == [device(1), device(2)]

    at_work(main)


def test_who_goes_through_others_now_loses_its_seat_when_it_has_been_silent() -> None:
    async def main(bench: Bench) -> None:
        for owner in (1, 2):
            bench.take(owner)
        loop = asyncio.get_running_loop()
        await until(loop.time() + GONE_S)
        bench.take(2)
        await until(loop.time() + 0.01)
        bench.relay.leave_behind(loop.time(), set())
        assert bench.relay.owners_at(1) == [device(2)]
        await until(loop.time() + GONE_S)
        bench.relay.leave_behind(loop.time(), {device(2)})
        assert bench.relay.owners_at(1) == [device(2)]
        bench.relay.leave_behind(loop.time(), set())
        assert bench.relay.owners_at(1) == []
        assert bench.relay.taken_bytes == 0

    at_work(main)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_whoever_comes_and_goes_does_not_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 50
    monkeypatch.setattr(relaying, "QUEUE_MAX", most)

    async def main() -> None:
        bench = Bench()  # nobody works at it
        replies = []
        for turn in range(most + 10):
            assert bench.take(1, epoch=turn + 1) in (READY, NOT_YET)
            replies.append(await bench.pass_("forward", 1, turn + 1, epoch=turn + 1))
            bench.say("leave", encode_word(word(1, epoch=turn + 1)))
        assert replies[0] == ACCEPTED
        assert replies[-1] == BUSY
        assert bench.relay._queue.qsize() <= most
        worker = asyncio.get_running_loop().create_task(bench.relay.run())
        await settle(2 * most)
        await bench.begin(1, epoch=10**6)
        await bench.batch(1, 10**6, epoch=10**6)
        assert bench.steps() == 1
        worker.cancel()

    run(main, until_s=1000.0)


def test_there_is_room_in_the_queue_for_all_micro_batches_of_all_seats() -> None:
    assert QUEUE_MAX >= SEATS_MAX * (MICRO_BATCHES_MAX + 3)


def test_what_a_copy_learnt_is_handed_in_though_its_owner_goes_on_to_another_chain() -> None:
    """It says that its round is over, and leaves, or asks for another stage, before the relay has come to that."""

    async def main(bench: Bench) -> None:
        await bench.begin(1, 2)
        for owner in (1, 2):
            await bench.batch(owner, 1)
        bench.compute.open.clear()
        assert await bench.word("end", 1) == ACCEPTED
        assert await bench.word("leave", 1) == ACCEPTED
        assert await bench.word("end", 2) == ACCEPTED
        assert bench.take(2, 2, 2, epoch=2) == NOT_YET
        bench.compute.open.set()
        await settle()
        learnt = await bench.rounds[1]
        assert learnt is not None
        assert learnt.copies == 2
        assert bench.relay.owners_at(1) == [device(2)]
        assert bench.take(2, 2, 2, epoch=2) == NOT_YET
        assert bench.relay.owners_at(1) == []

    at_work(main)


def test_who_begins_its_round_again_lets_the_others_wait_no_less() -> None:
    async def main(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        await bench.begin(1, 2)
        await until(loop.time() + 4.0)
        await bench.batch(1, 1)
        await bench.word("end", 1)
        late_s = loop.time() + 4.0  # as long again as the first took
        await until(late_s - 1.0)
        assert bench.say("take", encode_take(take(2, 1, 2, epoch=2, since=2))) == READY
        await until(late_s + 0.5)
        assert bench.relay.openings.late(loop.time()) == []
        await until(late_s + 8.0)
        assert [owner for _, owner in bench.relay.openings.late(loop.time())] == [device(2)] * 2

    at_work(main)


def test_steps_that_others_overtake_do_not_pile_up() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1, 2)
        await bench.batch(1, 1)
        for number in range(2, 30):
            bench.compute.open.clear()
            await bench.pass_("forward", 2, number)
            await bench.pass_("forward", 1, number)
            bench.compute.open.set()
            await settle()
            for owner in (1, 2):
                await bench.pass_("backward", owner, number)
        assert bench.relay._queue.qsize() == 0
        assert bench.steps() == 1 + 2 * 28

    at_work(main)


def test_a_network_that_cannot_be_built_here_costs_the_batch_and_not_the_relay() -> None:
    async def main(bench: Bench) -> None:
        def broken(spec: object) -> nn.Module:
            raise TaskError("no such layer")

        await bench.begin(1)
        bench.relay.split = replace(SPLIT, blueprint=replace(SPLIT.blueprint, factory=broken))
        await bench.pass_("forward", 1, 1)
        assert bench.outbox.failed == [(device(1), 1, 1)]

    at_work(main)


# -- micro-batches ----------------------------------------------------------------------------------------------------


def test_micro_batches_of_one_batch_are_accepted_together_in_any_order_and_make_one_step() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        for part in (1, 0, 2):
            assert await bench.pass_("forward", 1, 1, part=part, parts=3) == ACCEPTED
        assert await bench.pass_("forward", 1, 1, part=1, parts=3) == ACCEPTED  # it came twice
        assert bench.outbox.sent() == [("forward", 1)] * 3
        for part in (2, 0):
            assert await bench.pass_("backward", 1, 1, part=part, parts=3) == ACCEPTED
            assert bench.steps() == 0
        assert await bench.pass_("backward", 1, 1, part=1, parts=3) == ACCEPTED
        assert bench.steps() == 1
        assert bench.outbox.sent() == [("forward", 1)] * 3 + [("backward", 1)] * 3
        assert await bench.pass_("backward", 1, 1, part=1, parts=3) == ACCEPTED
        assert bench.steps() == 1

    at_work(main)


def test_the_samples_of_all_micro_batches_count() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        for number in (1, 2):
            for topic in ("forward", "backward"):
                for part in (0, 1):
                    await bench.pass_(topic, 1, number, part=part, parts=2)
        await bench.word("end", 1)
        found = await bench.rounds[1]
        assert found is not None
        assert found.samples == 2 * 2 * len(FEW)

    at_work(main)


def test_a_gradient_of_a_micro_batch_that_never_came_is_refused_and_the_next_batch_waits_for_this_one() -> None:
    async def main(bench: Bench) -> None:
        await bench.begin(1)
        bench.compute.open.clear()
        assert await bench.pass_("forward", 1, 1, part=0, parts=2) == ACCEPTED
        assert await bench.pass_("backward", 1, 1, part=1, parts=2) == OLD
        assert await bench.pass_("forward", 1, 2) == BUSY
        bench.compute.open.set()
        await settle()
        assert await bench.pass_("forward", 1, 1, part=1, parts=2) == ACCEPTED

    at_work(main)
