"""One device of a chain: an owner of data, a relay, or both.

It makes the parts, gives them their doors and runs each as a task of one `TaskGroup`; what happens comes out as events.
Knows no real network and no task files: `net.chained` and the simulation give it its doors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from blake3 import blake3

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.core.data import Batch, Data
from p2pfusion.errors import LocalError, WireError
from p2pfusion.hops.directory import Directory
from p2pfusion.hops.ending import is_settled
from p2pfusion.hops.holding import Holding
from p2pfusion.hops.linking import Linking
from p2pfusion.hops.owning import Owner
from p2pfusion.hops.relaying import Relay
from p2pfusion.hops.sending import Sender
from p2pfusion.hops.shard_rounds import ShardRounds
from p2pfusion.hops.site import DeviceConfig, DeviceDoors, Site
from p2pfusion.hops.split import Split
from p2pfusion.hops.switchboard import Switchboard
from p2pfusion.hops.talking import Talking
from p2pfusion.hops.telling import Telling
from p2pfusion.node.events import Done, Event
from p2pfusion.node.node import Status
from p2pfusion.seams import Reply, Request
from p2pfusion.wire.hops import Offer, decode_back

SILENT_S = 3.0
"""Six beats: whoever missed so many is gone till it beats again."""
OWNERS_S = 60.0
"""A relay whose owners fell silent without a goodbye ends after so long: to a busy machine three seconds are a moment,
and owners that come back to no relay wait for one for ever."""
LIFE = "life"
LOOK_S = 0.25
"""Least often somebody looks whether what it waits for has come."""
MEASURE_S = 120.0
"""For the validation data to go through the chain once more at the end: relays leave when the owners do."""
SETTLE_S = 10.0
"""For what was contributed last to be sealed by its holders: some gossip and the horizon's patience."""
LEDGER_BYTES = 32 << 20
"""Payload of a shard's contributions in memory: eight shards take what the one ledger of a node takes elsewhere."""
RELEASE_S, HOLDERS = 20.0, 2
"""A shard that nobody has wanted here for so long is let go if so many others hold it: the planner asks for its backups
at every round, and a round of a large network takes seconds."""
WATCH_S = 0.25
"""Between looks for owners that are late or gone."""


@dataclass(frozen=True, kw_only=True)
class Owning:
    """What makes a device an owner: batches without end, how many make a round, validation data, the last round."""

    batches: Iterator[Batch]
    steps: int
    validation: Data | None = None
    rounds: int | None = None
    evaluate_every: int = 5


class Device:
    """A participant. `async with Device(...) as device:` enters the swarm; leaving the block leaves it."""

    def __init__(self, config: DeviceConfig, split: Split, doors: DeviceDoors, owning: Owning | None = None) -> None:
        self.config, self.split, self._doors, self._owning = config, split, doors, owning
        self.me = doors.rng.randbytes(16)
        self.relay: Relay | None = None
        self.owner: Owner | None = None
        self._board = Switchboard(doors.transport)
        self._beat = 0
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._wanted_s: dict[int, float] = {}
        """By shard: when somebody last trained it here or wanted it kept."""
        self.done: Done | None = None
        self.error: LocalError | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Listen, announce, begin. Raises `PortError`."""
        group, doors = await self._group.__aenter__(), self._doors
        tag = blake3(b"p2pfusion chain " + self.split.swarm.encode()).hexdigest()[:16]
        addresses = await self._board.open(self._answer)
        self.site = Site(
            me=self.me,
            config=self.config,
            split=self.split,
            doors=doors,
            board=self._board,
            sender=Sender(self._board, doors.compute, group, self.config.codec),
            directory=Directory(self.me, self.split.tag, SILENT_S),
            addresses=addresses,
        )
        self.holding = Holding(self.site, self._took, group, self._is_learning)
        self._telling = Telling(self.site, self.holding)
        self.site.warn = self._telling.warn
        self._talking = Talking(self.site, self._offer)
        await doors.discovery.announce(tag, addresses)
        works = [self._talking.run(), self._talking.discover(tag), self._look()]
        if self.config.memory_bytes or self.config.keeps_all:  # without memory for copies it only follows ledgers
            self.relay = Relay(self.site, self._hold, self.holding.stir)
            works += [self.relay.run(), self._watch(self.relay)]
            self._hold(range(1, self.split.shards.count) if self.config.keeps_all else self.config.resumed)
        if self._owning is not None:
            self.owner = self._own(self._owning)
            works.append(self.owner.watch())
        self._tasks = [group.create_task(work) for work in works]
        self._life = group.create_task(self._live())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave: gracefully when the block ended well, at once when it raised."""
        if kind is None:
            self.stop()
            await self._life
        for task in (*self._tasks, self._life):
            task.cancel()
        self.holding.abandon()
        self._telling.events.close()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            await self._doors.discovery.close()
            await self._board.close()
            await self._doors.compute.close()

    def _own(self, owning: Owning) -> Owner:
        linking = Linking(self.site)
        owner = Owner(self.site, linking, owning.batches, owning.steps, owning.validation, owning.evaluate_every)
        config = self.config.node
        if owning.rounds is not None:
            config = replace(config, until_rounds=owning.rounds)
        self.holding.start(0, owner, lambda: False, config)
        return owner

    def stop(self) -> None:
        """Ask the device to end early; `events()` then ends with `interrupted`."""
        self._stopping.set()
        if self.owner is not None:
            self.holding.nodes[0].stop()

    async def events(self) -> AsyncIterator[Event]:
        """Everything that happens, from the start, ending with `Done`. Raises what made the device fail."""
        async for event in self._telling.events.follow():
            yield event
        if self.error is not None:
            raise self.error

    async def rounds(self) -> AsyncIterator[RoundReport]:
        """A report per finished round, until the device is done. Raises what made it fail."""
        async for event in self.events():
            if isinstance(event, RoundReport):
                yield event

    async def _live(self) -> None:
        """Till the run is over or somebody asks to stop; then say so, hand everything back, and say goodbye."""
        began_s = self.site.now_s()
        ended = await (self._trained(self.owner) if self.owner is not None else self._relayed())
        if ended.status == "ok":
            await self._settled()
            if self.owner is not None:
                await self._measure(self.owner, ended.round + 1)
        self.site.is_leaving = True
        self._telling.look()
        # Of the model it ended with, or of none: an older one's would mislead.
        score = self.owner.score_before(ended.round + 1) if self.owner is not None else None
        accuracy = None if score is None else score.accuracy
        self.done = self._telling.done(replace(ended, seconds=self.site.now_s() - began_s), accuracy)
        self._telling.events.add(self.done)
        await self._talking.exchange()  # goodbye
        await self.holding.leave()
        self._telling.events.close()

    async def _trained(self, owner: Owner) -> Done:
        """An owner's run: how its shard's node ended. Gives its seats back."""
        node = self.holding.nodes[0]
        while node.done is None and node.error is None:
            await self.site.bell(LIFE).wait(LOOK_S)
        self.error = node.error
        await owner.linking.leave()
        return node.done or self._ended("failed")

    async def _measure(self, owner: Owner, round_: int) -> None:
        """Measure what all have come to: before everybody is done, each would measure another model."""
        with suppress(TimeoutError):
            async with asyncio.timeout(MEASURE_S):
                await owner.measure(round_, self.holding.nodes[0].model())
        if not owner.linking.has_left:
            await owner.linking.leave()

    async def _relayed(self) -> Done:
        """A relay's run: till it is asked to stop or, where its end is given, till no owner is left of those it had."""
        had_owners, limit_s = False, self.config.node.timeout_s
        began_s = self.site.now_s()
        while not self._stopping.is_set():
            if limit_s is not None and self.site.now_s() - began_s >= limit_s:
                return self._ended("timeout")
            owners = any(offer.is_owner for offer in self.site.directory.heard(self.site.now_s(), OWNERS_S))
            had_owners |= owners
            if had_owners and not owners and self.config.node.until_rounds is not None:
                return self._ended("ok")
            await self.site.bell(LIFE).wait(LOOK_S)
        return self._ended("interrupted")

    def _ended(self, status: Status) -> Done:
        held = self.holding.held()
        return Done(
            status=status, name=self.config.node.name, round=min((one.tip_round for one in held), default=0),
            accuracy=None, model_sha256="", chain="", bytes_sent=0, bytes_received=0, seconds=0.0,
        )  # fmt: skip

    async def _settled(self) -> None:
        """Wait till all owners are done and all that was contributed to any shard is sealed, as far as is known."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                # What was heard of a relay may be older than what an owner said last, so everybody is asked once more.
                while not (self._is_settled() and await self._talking.exchange() and self._is_settled()):
                    await self.site.bell(LIFE).wait(LOOK_S)

    def _is_settled(self) -> bool:
        return is_settled(self.site.offers(), self.holding.held(), self.split.shards.count)

    def _took(self, shard: int, event: Event) -> None:
        """An event of a shard's node."""
        trained = [one for one in self.holding.nodes if self._is_trained(one)]
        self._telling.take(shard, event, sorted(trained))

    def _is_learning(self, shard: int) -> bool:
        """Whether more of this shard is to come from here: of owners' own till its run has ended."""
        is_own = shard == 0 and self.holding.nodes[0].done is None
        return is_own or (self.relay is not None and self.relay.is_learning(shard))

    def _is_trained(self, shard: int) -> bool:
        return shard == 0 or (self.relay is not None and bool(self.relay.owners_at(shard)))

    async def _look(self) -> None:
        """Tell who comes and goes."""
        while True:
            self._telling.look()
            await self.site.bell("look").wait(LOOK_S)

    # -- what it says and answers --------------------------------------------------------------------------------------

    def _offer(self) -> Offer:
        self._beat += 1
        owner = self.owner
        return Offer(
            run=self.split.tag,
            device=self.me,
            name=self.config.node.name,
            addresses=self.site.addresses,
            incarnation=1,  # an id lives once: who starts again is a new device
            beat=self._beat,
            is_owner=owner is not None,
            is_relay=self.config.memory_bytes > 0,
            is_leaving=self.site.is_leaving,
            round=self.holding.nodes[0].state.ledger.newest if owner is not None else 0,
            memory_bytes=self.config.memory_bytes,
            batch_us=self.config.batch_us,
            chain=owner.linking.chain if owner is not None and not owner.linking.has_left else (),
            held=self.holding.held(),
            lanes=owner.linking.planned if owner is not None else (),
        )

    async def _answer(self, request: Request) -> Reply:
        if (request.method, request.path) == ("GET", "/v1/ping"):
            return Reply(204)
        _, _, topic = request.path.partition("/v1/hops/")
        if request.method != "POST" or not topic:
            return Reply(404, b"unknown")
        try:
            return self._on(topic, request) or Reply(404, b"unknown")
        except WireError:
            return Reply(400, b"malformed")

    def _on(self, topic: str, request: Request) -> Reply | None:
        if topic == "offers":
            return self._talking.answer(request)
        if topic == "back":
            return self._back(request)
        found = self.owner.answer(topic, request) if self.owner is not None else None
        if self.relay is not None and (found is None or found.status == 404):
            found = self.relay.answer(topic, request) or found
        return found

    def _back(self, request: Request) -> Reply:
        back = decode_back(request.body)
        if back.run != self.split.tag or back.last >= self.split.shards.count or self.relay is None:
            return Reply(409, b"other run")
        shards = range(back.first, back.last + 1)
        kept = [one for one in sorted({*shards, *self.holding.nodes} - {0}) if not self.relay.owners_at(one)]
        if self.relay.taken_bytes + sum(map(self.split.ledger_bytes, kept)) > self.config.memory_bytes:
            return Reply(503, b"full")
        self._hold(shards)
        self._wanted_s.update(dict.fromkeys(shards, self.site.now_s()))
        return Reply(202, b"accepted")

    def _hold(self, shards: Iterable[int]) -> None:
        """Have a node for each of these."""
        relay = self.relay
        assert relay is not None
        own = self.config.node
        config = replace(
            own, until_rounds=None, timeout_s=None, wait_s=None, min_peers=1, ledger_bytes_max=LEDGER_BYTES
        )
        for shard in shards:
            if shard not in self.holding.nodes:
                algorithm = ShardRounds(shard, self.split, relay.openings)
                self.holding.start(shard, algorithm, relay.observing(shard), config)
                self._wanted_s[shard] = self.site.now_s()

    async def _watch(self, relay: Relay) -> None:
        """Do without owners that are late or gone."""
        while True:
            await asyncio.sleep(WATCH_S)
            relay.leave_behind(self.site.now_s(), self._users())
            self._release(relay)

    def _release(self, relay: Relay) -> None:
        """Let go of shards that nobody trains here, of which no backup is wanted here, and that two others hold."""
        now_s, here = self.site.now_s(), self.site.here()
        if self.config.keeps_all:
            return
        for shard in [shard for shard in self.holding.nodes if shard]:
            if relay.owners_at(shard):
                self._wanted_s[shard] = now_s
            others = sum(any(one.shard == shard for one in offer.held) for offer in here)
            if now_s - self._wanted_s[shard] > RELEASE_S and others >= HOLDERS:
                self.holding.release(shard)

    def _users(self) -> set[bytes]:
        """Owners whose chain leads through here, as they say."""
        chains = {offer.device: offer.chain for offer in self.site.here()}
        if self.owner is not None:
            chains[self.me] = self.owner.linking.chain
        return {owner for owner, chain in chains.items() if any(hop.device == self.me for hop in chain)}
