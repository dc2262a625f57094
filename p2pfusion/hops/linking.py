"""An owner's chain: which relays it goes through, whether they are ready, and what takes the place of one that is gone.

The owner with the smallest id among those who are here plans for all, one chain or several beside each other; the
others take the one that it gives them, so that copies of many owners lie together and rounds of a shard close together.
Where the planner is silent or its chain broken, each helps itself. Every change of a chain has a new epoch: what is
still on its way in the old one is understood by nobody.

Knows no tensors and no losses; `chains` decides, this module asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from p2pfusion.errors import RemoteError, TaskError
from p2pfusion.hops.chains import Chain, backups, times
from p2pfusion.hops.lanes import Lanes, deal, devices, have_room, lane_of, mended, peopled, round_of, seen
from p2pfusion.hops.site import Site
from p2pfusion.seams import Request
from p2pfusion.wire.hops import Back, Hop, Offer, Take, Word, encode_back, encode_take

PAUSE_S, PAUSE_MAX_S = 0.02, 0.5
"""Between questions whether a relay is ready: rounds of small networks are short, and a snapshot takes seconds."""
ASK_DEADLINE_S = 1.0
"""For a relay to answer a question, which it does at once: some batches are lost to a relay that is gone, and the pause
is this and an owner's patience. A busy one that misses it is asked again when it beats."""
TROUBLE_S = 5.0
"""After waiting so long for a chain a person is told why."""
BACK_S = 5.0
"""Between two requests to keep the same backups: whoever is asked no more lets go of them."""
FULL_S = 5.0
"""A relay that was full is not asked again for so long."""
BETTER_SHARE = 0.8
"""Chains are changed for better ones only if a round then takes at most this share: moving costs a round's copies."""


class HopLost(RemoteError):
    """A batch did not come through; `place` is the shard at which it stopped, None where nobody knows."""

    def __init__(self, place: int | None) -> None:
        super().__init__("a hop is lost" if place is None else f"the hop at shard {place} is lost")
        self.place = place


class Linking:
    """Of one owner. `chain` is empty until the first round; `lanes` are everybody's, as far as is known here."""

    def __init__(self, site: Site) -> None:
        self.split, self.me, self.epoch = site.split, site.me, 0
        self.chain: Chain = ()
        self.lanes: Lanes = ()
        self.replanned = 0
        self.has_left = False
        """I want no seats any more."""
        self._site = site
        self._since = 0
        """The epoch in which this chain began."""
        self._full: dict[bytes, float] = {}
        self._planned_with: frozenset[bytes] = frozenset()
        self._planned_for: frozenset[bytes] = frozenset()
        self._kept: tuple[Hop, ...] = ()
        self._kept_s = 0.0
        self._trouble = ""
        """Why there is no chain, for people."""

    # -- who is there --------------------------------------------------------------------------------------------------

    def _relays(self) -> list[Offer]:
        now_s = self._site.now_s()
        return [one for one in self._site.here() if one.is_relay and self._full.get(one.device, 0.0) <= now_s]

    def _owners(self) -> list[bytes]:
        """All that are here, I included, ascending."""
        return sorted([self.me, *(one.device for one in self._site.here() if one.is_owner)])

    @property
    def planned(self) -> Lanes:
        """What I plan for all; nothing where another does."""
        return self.lanes if self._planner() is None else ()

    @property
    def batch_s(self) -> float:
        """Forecast of one batch of mine with all owners of my chain under way."""
        lane = lane_of(peopled(self.lanes, self._owners()), self.me)
        if lane is not None:
            with suppress(ValueError, TaskError):
                chain = times(self.split, self.chain, self._relays(), len(lane.owners))
                return max(chain.loop_s, chain.full_s * len(lane.owners))
        return 0.0

    def _planner(self) -> Offer | None:
        """The owner whose chain counts; None: it is me."""
        first = min((one for one in self._site.here() if one.is_owner), key=lambda one: one.device, default=None)
        return first if first is not None and first.device < self.me else None

    def said_goodbye(self) -> int | None:
        """The first shard of a hop of mine that has left; None: nobody has."""
        left = {one.device for one in self._site.directory.left()}
        return next((hop.first for hop in self.chain if hop.device in left), None)

    # -- what a round asks ---------------------------------------------------------------------------------------------

    async def seat(self, round_: int, *, is_begun: bool = False) -> None:
        """Have a seat at every relay of the chain, their rounds open; however long that takes.

        While a round `is_begun` a chain that is whole is not changed for a better one: that would begin it again.
        """
        pause_s, since_s, told, self.has_left = PAUSE_S, self._site.now_s(), False, False
        while True:
            if not told and self._site.now_s() - since_s > TROUBLE_S:
                told = True
                self._site.warn(self._trouble or "waits for the relays of its chain, which are not ready yet")
            if not is_begun or self._is_broken():
                self._reconsider()
            lost, is_ready = await self._ask(round_)
            if lost:
                self._move(partial(self._without, lost))
            elif is_ready:
                return await self._back_up()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def mend(self, place: int | None, round_: int) -> bool:
        """A batch was lost: begin a new epoch with those who answer, others in the place of those who do not.

        Whether there are others now, so that copies of the round begun are void.
        """
        before = self._since
        for hop in self.chain:
            if place is not None and hop.first <= place <= hop.last:
                await self._ping(hop)
        self.epoch += 1
        await self.seat(round_, is_begun=True)
        return self._since > before

    async def end(self, round_: int) -> None:
        """My round is over: every relay may hand in what it learnt for me."""
        await self._say("end", self.chain, self.epoch, round_)

    async def leave(self) -> None:
        """Give all seats back; others hear of no chain of mine any more."""
        await self._say("leave", self.chain, self.epoch)
        self.has_left = True

    # -- how -----------------------------------------------------------------------------------------------------------

    def _reconsider(self) -> None:
        """Take the planner's chain, as the planner others when relays or owners came; replace who is gone."""
        relays, owners, planner = self._relays(), self._owners(), self._planner()
        here = {one.device for one in relays}
        said = seen(planner) if planner is not None else ()
        own = lane_of(said, self.me)
        if own is not None and here >= devices((own,)):
            self._move(lambda: said)
        elif devices(self.lanes) - here and self._is_concerned():
            self._move(partial(self._without, devices(self.lanes) - here))
        elif not self.chain and (planner is not None or self._site.is_quiet()):
            self._move(lambda: self._deal(relays, owners))
        elif self.chain and planner is None and (here - self._planned_with or set(owners) - self._planned_for):
            self._move(lambda: self._better(relays, owners))

    def _is_concerned(self) -> bool:
        """Whether it is for me to replace who is gone: from my own chain, and as the planner from any."""
        return self._planner() is None or self._is_broken()

    def _is_broken(self) -> bool:
        """Whether there is no chain, or a hop of it is not here."""
        here = {one.device for one in self._relays()}
        return not self.chain or any(hop.device not in here for hop in self.chain)

    def _without(self, lost: Collection[bytes]) -> Lanes:
        lanes = peopled(self.lanes, self._owners())
        return mended(self.split, lanes, lost, self._relays()) or self._deal(
            [one for one in self._relays() if one.device not in lost], self._owners()
        )

    def _deal(self, relays: list[Offer], owners: list[bytes]) -> Lanes:
        config = self._site.config
        return deal(self.split, relays, owners, config.lanes, config.micro_batches)

    def _better(self, relays: list[Offer], owners: list[bytes]) -> Lanes:
        kept, found = peopled(self.lanes, owners), self._deal(relays, owners)
        if not have_room(self.split, kept, relays):
            return found
        parts = self._site.config.micro_batches
        before_s, after_s = (round_of(self.split, one, relays, parts) for one in (kept, found))
        return found if after_s <= BETTER_SHARE * before_s else kept

    def _move(self, plan: Callable[[], Lanes]) -> None:
        """Go over to other lanes, if there are any; those who are in my chain no more are told."""
        self._planned_with = frozenset(one.device for one in self._relays())
        self._planned_for = frozenset(self._owners())
        try:
            lanes = plan()
        except TaskError as error:
            self._trouble = str(error)
            return  # nobody can hold it now: asked again in a moment
        self._trouble, self.lanes = "", lanes
        lane = lane_of(lanes, self.me)
        chain = lane.hops if lane is not None else ()
        if chain == self.chain:
            return
        dropped = [hop for hop in self.chain if hop.device not in {one.device for one in chain}]
        self._site.sender.spawn(self._say("leave", tuple(dropped), self.epoch))
        self.replanned += bool(self.chain)
        self.chain, self.epoch = chain, self.epoch + 1
        self._since = self.epoch

    async def _ask(self, round_: int) -> tuple[Collection[bytes], bool]:
        """Ask for all seats: who is lost or full, and whether all are ready."""
        if not self.chain:
            return (), False
        answers = await asyncio.gather(*(self._take(place, hop) for place, hop in enumerate(self.chain)))
        lost = [hop.device for hop, answer in zip(self.chain, answers, strict=True) if answer in (None, 503)]
        return lost, all(answer == 200 for answer in answers)

    async def _take(self, place: int, hop: Hop) -> int | None:
        """The status of its answer; None without one."""
        chain, mine = self.chain, self._site.address
        take = Take(
            run=self.split.tag, owner=self.me, owner_address=mine, epoch=self.epoch, since=self._since, first=hop.first,
            last=hop.last,
            previous=chain[place - 1].address if place else mine,
            next=chain[place + 1].address if place + 1 < len(chain) else mine,
        )  # fmt: skip
        try:
            reply = await self._call(hop, "take", encode_take(take))
        except RemoteError:
            self._site.directory.lose(hop.device)
            return None
        if reply == 503:
            self._full = {one: until_s for one, until_s in self._full.items() if until_s > self._site.now_s()}
            self._full[hop.device] = self._site.now_s() + FULL_S
        return reply

    async def _ping(self, hop: Hop) -> None:
        try:
            request = Request("GET", "/v1/ping")
            await self._site.board.call(hop.address, request, deadline_s=ASK_DEADLINE_S)
        except RemoteError:
            self._site.directory.lose(hop.device)

    async def _back_up(self) -> None:
        """Ask a second device to keep each stage's ledger, and again now and then."""
        keepers = backups(self.chain, self._relays()) if len(self.lanes) == 1 else ()  # else other lanes hold them
        now_s = self._site.now_s()
        if self._planner() is not None or (keepers == self._kept and now_s - self._kept_s < BACK_S):
            return
        self._kept, self._kept_s = keepers, now_s
        for hop in keepers:
            back = Back(run=self.split.tag, owner=self.me, first=hop.first, last=hop.last)
            with suppress(RemoteError):
                await self._call(hop, "back", encode_back(back))

    async def _say(self, topic: str, chain: Chain, epoch: int, round_: int = 0) -> None:
        for hop in chain:
            word = Word(run=self.split.tag, owner=self.me, epoch=epoch, round=round_, batch=0, place=hop.first)
            with suppress(RemoteError):
                await self._site.sender.word(hop.address, topic, word)

    async def _call(self, hop: Hop, topic: str, body: bytes) -> int:
        request = Request("POST", f"/v1/hops/{topic}", body)
        return (await self._site.board.call(hop.address, request, deadline_s=ASK_DEADLINE_S)).status
