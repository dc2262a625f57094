"""A relay at work: owners' copies of its stages, and one queue of passes forward, backward and optimiser steps.

What an owner asks (`take`) is answered at once: room or not, ready or not yet. What travels is put into the queue and
accepted; the queue's worker computes, and what it computed is sent on while the next is computed: the gradient before
the step that follows from it. One batch of an owner is under way at a time, in one piece or as micro-batches; what
comes twice is done once. Only the worker touches copies: a batch that counts no more is dropped in its turn, never
under the hands of the executor.

Knows no ledger: rounds begin and end in `openings`, and which shards have a node here is the device's affair. Source:
PAPERS.md 3.1; ours: seats, epochs, being full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from itertools import count as numbers

import torch

from p2pfusion.config import MICRO_BATCHES_MAX
from p2pfusion.core.splitting import Copy
from p2pfusion.errors import LocalError, WireError
from p2pfusion.hops.openings import Openings
from p2pfusion.hops.seats import FIRST, Doing, Figures, Job, Seat
from p2pfusion.hops.sending import opened
from p2pfusion.hops.site import Site
from p2pfusion.seams import Reply, Request
from p2pfusion.wire.hops import Passage, Take, Word, decode_passage, decode_take, decode_word

SEATS_MAX = 128
"""Owners at one relay: each takes memory for a copy, and a hundred are the papers' largest figure."""
QUEUE_MAX = (MICRO_BATCHES_MAX + 3) * SEATS_MAX
"""Things to do at once: the micro-batches of a batch, a step, an end and a drop of every seat."""
GONE_S = 3.0
"""An owner that is gone or goes through others, and that has asked for nothing for so long, has no seat."""
READY, NOT_YET, ACCEPTED = Reply(200, b"ready"), Reply(202, b"not yet"), Reply(202, b"accepted")
FULL, BUSY = Reply(503, b"full"), Reply(503, b"busy")
NO_SEAT, OLD = Reply(404, b"seat"), Reply(409, b"old")


class Relay:
    """All seats of one device. `run` is its worker, a task of the device's."""

    def __init__(self, site: Site, hold: Callable[[Iterable[int]], None], stir: Callable[[range], None]) -> None:
        """`hold` is called with shards that somebody wants held here, `stir` where owners came or went."""
        self._site, self.split, self.memory_bytes = site, site.split, site.config.memory_bytes
        self.openings = Openings(self.owners_at, self._unpark)
        self.figures = Figures()
        self._compute, self._sender, self._hold, self._stir = site.doors.compute, site.sender, hold, stir
        self._seats: dict[bytes, Seat] = {}
        self._queue: asyncio.PriorityQueue[tuple[int, int, Job]] = asyncio.PriorityQueue()
        """Bounded where things are accepted."""
        self._numbers = numbers()

    # -- who sits here -------------------------------------------------------------------------------------------------

    def owners_at(self, shard: int) -> list[bytes]:
        """Owners with a seat at this shard, in order."""
        return [owner for owner, seat in sorted(self._seats.items()) if shard in seat.shards]

    def observing(self, shard: int) -> Callable[[], bool]:
        """Asks whether nobody trains this shard here at the moment."""
        return lambda: not self.owners_at(shard)

    def is_learning(self, shard: int) -> bool:
        """Whether something of this shard was learnt here, not only asked for, that is not contributed yet."""
        seats = (self._seats[owner] for owner in self.owners_at(shard))
        return shard in self.openings.learnt or any((seat.copy and seat.samples) or seat.is_ending for seat in seats)

    @property
    def taken_bytes(self) -> int:
        """What all seats may take, as planned."""
        return self._need_bytes([seat.take for seat in self._seats.values()])

    def _need_bytes(self, takes: list[Take]) -> int:
        counts: dict[tuple[int, int], int] = {}
        for take in takes:
            counts[take.first, take.last] = counts.get((take.first, take.last), 0) + 1
        return sum(self.split.memory_bytes(first, last, count) for (first, last), count in counts.items())

    # -- what is asked of it -------------------------------------------------------------------------------------------

    def answer(self, topic: str, request: Request) -> Reply | None:
        """The reply to a call on one of its topics; None for another topic. Raises `WireError`."""
        match topic:
            case "take":
                return self._take(decode_take(request.body))
            case "forward" | "backward":
                return self._passage("forward" if topic == "forward" else "backward", decode_passage(request.body))
            case "end" | "leave":
                return self._word(topic, decode_word(request.body))
        return None

    def _take(self, take: Take) -> Reply:
        if take.run != self.split.tag or take.last >= self.split.shards.count:
            return Reply(409, b"other run")
        seat = self._seats.get(take.owner)
        if seat is not None and take.epoch < seat.take.epoch:
            return OLD
        if seat is not None and seat.is_ending:
            return NOT_YET  # what its copy learnt is handed in first
        others = [one.take for owner, one in self._seats.items() if owner != take.owner]
        if self._need_bytes([*others, take]) > self.memory_bytes or len(others) >= SEATS_MAX:
            return FULL
        if seat is None or seat.shards != _shards(take) or take.since > seat.take.epoch:
            seat = self._seated(take)
        elif take.epoch > seat.take.epoch:
            self._interrupt(seat)
        seat.take, seat.heard_s = take, _now_s()
        self.figures.stage = take.first, take.last
        self.figures.copies_most = max(self.figures.copies_most, len(self._seats))
        self.figures.taken_bytes_most = max(self.figures.taken_bytes_most, self.taken_bytes)
        self._hold(seat.shards)
        self._stir(seat.shards)
        is_open = seat.copy is not None or self.openings.is_open(seat.shards, take.owner)
        return READY if is_open else NOT_YET

    def _seated(self, take: Take) -> Seat:
        """A new seat in the place of the owner's old one, whose copy is void."""
        old = self._seats.get(take.owner)
        seat = self._seats[take.owner] = Seat(take, _now_s())
        if old is not None:
            old.copy = None
            old.parked.clear()
            for shard in old.shards:
                self.openings.close(shard)  # without its owner, if it is not among the new seat's
            self.openings.wait_again(seat.shards)
            self._stir(old.shards)
        return seat

    def _passage(self, doing: Doing, passage: Passage) -> Reply:
        seat = self._seats.get(passage.owner)
        if seat is None or passage.run != self.split.tag or passage.epoch != seat.take.epoch:
            return NO_SEAT
        seen = seat.forwarded if doing == "forward" else seat.returned
        if passage.batch < seen.batch or (doing == "backward" and not seat.forwarded.has(passage)):
            return OLD
        if seen.has(passage):
            return ACCEPTED  # it came twice
        is_next = passage.batch > seat.forwarded.batch  # which comes when nothing of the last is to be done
        if seat.queued >= (1 if is_next else passage.parts) or self._queue.qsize() >= QUEUE_MAX:
            return BUSY
        seat.heard_s = _now_s()
        seat.queued += 1
        seen.add(passage)
        self._add(Job(seat, doing, passage))
        return ACCEPTED

    def _word(self, topic: str, word: Word) -> Reply:
        seat = self._seats.get(word.owner)
        if seat is None or word.run != self.split.tag:
            return NO_SEAT
        if topic == "leave" and word.epoch >= seat.take.epoch:  # it may have gone on without asking here again
            if seat.is_ending:
                seat.is_leaving = True
            else:
                self._leave(word.owner)
            return ACCEPTED
        if word.epoch != seat.take.epoch:
            return NO_SEAT
        if self._queue.qsize() >= QUEUE_MAX:
            return BUSY
        seat.heard_s = _now_s()
        self._finish(seat)
        return ACCEPTED

    def _finish(self, seat: Seat) -> None:
        """Hand in what the seat's copy learnt, behind everything that it has still to do."""
        if not seat.is_ending:
            seat.is_ending = True
            self._add(Job(seat, "end"))

    def _leave(self, owner: bytes) -> None:
        """Free the owner's copy; what it learnt since its round began is gone with it."""
        seat = self._seats.pop(owner, None)
        if seat is not None:
            seat.copy = None
            seat.parked.clear()
            self._sender.forget(owner)
            for shard in seat.shards:
                self.openings.close(shard)
            self._stir(seat.shards)

    def leave_behind(self, now_s: float, users: Collection[bytes]) -> None:
        """Do without owners that let the others wait: what their copies learnt counts.

        Those that are not among `users`, the owners whose chain leads through here, leave.
        """
        for owner, seat in list(self._seats.items()):
            if owner not in users and now_s - seat.heard_s > GONE_S:
                self.figures.lost += 1
                self._leave(owner)
        for shard, owner in self.openings.late(now_s):
            seat = self._seats[owner]
            if seat.copy is not None:
                self._finish(seat)
            else:
                start = self.openings.start(range(shard, shard + 1), owner)
                if start is not None:
                    self.openings.hand_in(shard, start.numbers[0], owner, start.values, 0)

    def _interrupt(self, seat: Seat) -> None:
        """Forget the batch under way, behind what has still to be done for those before it."""
        seat.queued = 0
        seat.parked.clear()
        if seat.copy is not None and not seat.is_dropping:
            seat.is_dropping = True
            self._add(Job(seat, "drop"))

    # -- what it does --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Compute one thing after the other, for ever."""
        while True:
            _, _, job = await self._queue.get()
            if self._is_current(job):
                try:
                    await self._do(job)
                except (LocalError, WireError, ValueError) as error:
                    self._failed(job, error)

    def _add(self, job: Job) -> None:
        self._queue.put_nowait((FIRST[job.doing], next(self._numbers), job))

    def _is_current(self, job: Job) -> bool:
        """A batch counts in the epoch that it began in; steps, ends and drops as long as there is the seat."""
        take = job.seat.take
        is_of_epoch = job.passage is None or job.passage.epoch == take.epoch
        return is_of_epoch and self._seats.get(take.owner) is job.seat

    async def _do(self, job: Job) -> None:
        match job.doing:
            case "forward":
                await self._forward(job)
            case "backward":
                await self._backward(job)
            case "step":
                job.seat.is_stepping = False
                await self._step(job.seat)
            case "end":
                await self._step(job.seat)
                await self._end(job.seat)
            case "drop":
                job.seat.is_dropping = False
                await self._step(job.seat)
                if job.seat.copy is not None:
                    job.seat.copy.drop()

    async def _forward(self, job: Job) -> None:
        seat, passage = job.seat, job.passage
        assert passage is not None
        if seat.copy is None and not await self._copied(seat, passage.round):
            seat.parked.append(job)
            return
        await self._step(seat)
        copy = seat.copy
        if copy is None or not self._is_current(job):
            return
        began_s, cost_s = _now_s(), self.split.forward_s(*seat.ends) / passage.parts
        output = await self._compute.run(lambda: _forwarded(copy, passage), cost_s=cost_s)
        self.figures.forward_s += _now_s() - began_s
        if self._is_current(job):
            seat.queued = max(0, seat.queued - 1)
            if passage.batch != seat.batch_number:
                seat.batch_number, seat.batch = passage.batch, 0
            seat.batch += passage.shape[0]
            self._sender.pass_on(seat.take, "forward", seat.take.next, passage, output)

    async def _copied(self, seat: Seat, round_: int) -> bool:
        """Make the seat's copy from the heads of its shards; False while they are not all open."""
        start = self.openings.start(seat.shards, seat.take.owner)
        if start is None:
            return False
        blocks, recipe = self.split.shards.run(seat.take.first, seat.take.last), self.split.recipe(round_)
        made = await self._compute.run(lambda: Copy(self.split.blueprint, blocks, start.values, recipe))
        seat.copy, seat.numbers, seat.samples = made, start.numbers, 0
        return True

    async def _backward(self, job: Job) -> None:
        seat, passage, copy = job.seat, job.passage, job.seat.copy
        assert passage is not None
        if copy is None:
            raise ValueError("left behind meanwhile: the batch counts nowhere")
        began_s, cost_s = _now_s(), self.split.backward_s(*seat.ends) - self.split.step_s(*seat.ends)
        cost_s /= passage.parts
        back = await self._compute.run(lambda: copy.backward(opened(passage), passage.part), cost_s=cost_s)
        self.figures.backward_s += _now_s() - began_s
        if self._is_current(job):
            seat.queued = max(0, seat.queued - 1)
            self._sender.pass_on(seat.take, "backward", seat.take.previous, passage, back)
            if copy.is_due and not seat.is_stepping:
                seat.is_stepping = True
                self._add(Job(seat, "step"))

    async def _step(self, seat: Seat) -> None:
        copy = seat.copy
        if copy is not None and copy.is_due:
            await self._compute.run(copy.step, cost_s=self.split.step_s(*seat.ends))
            self.figures.batches += 1
            seat.samples += seat.batch

    async def _end(self, seat: Seat) -> None:
        """The owner's round is over: hand in what its copy learnt, shard by shard."""
        copy, numbers = seat.copy, seat.numbers
        if copy is None:
            seat.is_ending = False
            return self._leave(seat.take.owner) if seat.is_leaving else None
        values = await self._compute.run(lambda: copy.values)
        if seat.copy is not copy:
            return  # it left meanwhile
        seat.copy, seat.numbers, seat.is_ending = None, (), False
        for (shard, span), number in zip(self.split.sizes(*seat.ends), numbers, strict=True):
            self.openings.hand_in(shard, number, seat.take.owner, values[span], seat.samples)
        if seat.is_leaving:
            self._leave(seat.take.owner)

    def _unpark(self) -> None:
        """Rounds opened or closed: whoever waited is looked at again."""
        for seat in self._seats.values():
            for job in seat.parked:
                self._add(job)
            seat.parked.clear()

    def _failed(self, job: Job, error: Exception) -> None:
        """The owner's batch cannot be computed here: it is told, and its batch forgotten, if it still counts.

        People here are told why; the owner hears only that it is lost, and where.
        """
        self.figures.failures += 1
        if not self._is_current(job):
            return
        self._site.warn(f"a batch is lost here: {error}")
        self._interrupt(job.seat)
        take, passage = job.seat.take, job.passage
        if passage is not None:
            self._sender.tell_failed(take, passage, take.first)


def _forwarded(copy: Copy, passage: Passage) -> torch.Tensor:
    x = opened(passage)
    return copy.forward(x, passage.part, passage.parts) if passage.is_training else copy.evaluate(x)


def _shards(take: Take) -> range:
    return range(take.first, take.last + 1)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
