"""Talking: `POST /v1/gossip` to a few peers now and then and whenever something changed.

A task of the node. What to say and to whom `swarm.gossip` decides; what is said to us goes to `node.listening`
(members) and `node.admitting` (contributions).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from p2pfusion.config import FRESH_PER_CALL_MAX, INLINE_BYTES_MAX, REPORTS_PER_CALL_MAX, RUMOURS_PER_CALL_MAX
from p2pfusion.errors import Refused, RemoteError
from p2pfusion.node.admitting import Admitting
from p2pfusion.node.calls import Absent, Calls, Strangers
from p2pfusion.node.foreign import Foreign
from p2pfusion.node.listening import Listening
from p2pfusion.node.state import State
from p2pfusion.seams import Reply, Request
from p2pfusion.swarm.gossip import choose, haves, is_small
from p2pfusion.wire.codec import (
    contribution_id,
    decode_gossip,
    encode_gossip,
    encode_run,
    fit_gossip,
)
from p2pfusion.wire.messages import Contribution, ContributionId, Gossip, PeerId, Report, Rumour

FRESH_WAITING_MAX = 256
"""Manifests waiting to be passed on; the oldest go first, `have` brings what was missed."""
BUSY_S = 0.25
"""While a call is under way and younger than this, nothing but fresh work starts another to the same peer."""
FULL = "full"
"""The query of a call that asks for everything and brings everything, whatever each is thought to know."""


class Gossiping:
    """One node's share of the talk."""

    def __init__(self, state: State, calls: Calls, group: asyncio.TaskGroup, refuse: Callable[[Refused], None]) -> None:
        """`refuse` is called when the swarm we meet is another run and we are the ones to go."""
        self._state = state
        self._calls = calls
        self._group = group
        self.strangers = Strangers(state.config.peers, state.bells["gossip"].ring)
        self.admitting = Admitting(state, self.pass_on)
        self.listening = Listening(state, self.strangers, self.admitting)
        self._fresh: deque[ContributionId] = deque(maxlen=FRESH_WAITING_MAX)
        self._busy: dict[PeerId | str, float] = {}
        self.foreign = Foreign(state, refuse)
        self._told: Report | None = None
        self._interval_s = state.config.gossip.gossip_interval_s
        self._full_s: float | None = None
        """When everything is next told to somebody, whatever it is thought to know."""
        self._absent = Absent(state.config.gossip)

    # -- speaking ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Speak for ever: a beat every interval, and at once (coalesced) when something changed."""
        state, gossip = self._state, self._state.config.gossip
        beat_s = state.now_s()
        while True:
            rang = await state.bells["gossip"].wait(min(beat_s, self.strangers.next_s()) - state.now_s())
            now_s = state.now_s()
            self._speak_to_strangers()
            if now_s >= beat_s:
                is_quiet = self._told == state.report() and not self._is_stirred
                longer_s = min(self._interval_s * 2, gossip.gossip_interval_max_s)
                self._interval_s = longer_s if is_quiet else gossip.gossip_interval_s
                self.listening.has_news = False
                beat_s = now_s + self._interval_s * state.doors.rng.uniform(0.9, 1.1)
                self._speak(is_beat=True)
            elif rang and (self._fresh or self._is_urgent(state.report())):
                await asyncio.sleep(gossip.coalesce_s)
                self._speak(is_beat=False)
            if self._is_stirred and self._interval_s > gossip.gossip_interval_s:
                self._interval_s = gossip.gossip_interval_s
                beat_s = min(beat_s, now_s + self._interval_s)

    @property
    def _is_stirred(self) -> bool:
        """Whether there is something to relay: others' news, rumours, or an accusation of mine."""
        membership = self._state.membership
        return self.listening.has_news or len(membership.rumours) > 0 or len(membership.accused()) > 0

    def pass_on(self, id_: ContributionId) -> None:
        """A manifest seen for the first time: tell some peers at once."""
        self._fresh.append(id_)
        self._state.bells["gossip"].ring()

    def _is_urgent(self, report: Report) -> bool:
        """Whether others wait for this news: a new tip, floor or role, or a round I now hold everybody's work of.

        A round that is still filling up changes its digest with every arrival; that can wait for the next beat.
        """
        told, state = self._told, self._state
        if state.membership.rumours.has_untold or self.listening.is_pressing:
            return True
        if told is None or (told.role, told.stop, told.incarnation) != (report.role, report.stop, report.incarnation):
            return True
        shard, before = report.shards[0], told.shards[0]
        if (shard.tip_chain, shard.floor) != (before.tip_chain, before.floor):
            return True
        known = dict(before.digests)
        trainers = frozenset(state.membership.view(state.now_s()).trainers())
        return any(
            known.get(round_) != digest and trainers.issubset(state.arrived(round_)) for round_, digest in shard.digests
        )

    def _speak(self, *, is_beat: bool) -> None:
        state, rng = self._state, self._state.doors.rng
        self._told = state.report(is_beat=is_beat)
        fresh = tuple(self._fresh)[:FRESH_PER_CALL_MAX]
        for _ in fresh:
            self._fresh.popleft()
        is_idle = is_beat and self._interval_s >= state.config.gossip.gossip_interval_max_s
        count = 1 if is_idle else state.config.gossip.fan_out
        for peer in choose(state.membership.live(), count, rng):
            news = tuple(id_ for id_ in fresh if not state.spoken.knows(peer, id_))
            if news or self._is_free(peer):
                self._spawn(peer, news)
        self._speak_to_the_accused(is_beat=is_beat)
        for peer in self.listening.wishes():
            self._spawn(peer, (), is_full=True)
        if is_beat:
            self._speak_to_the_absent()

    def _speak_to_the_accused(self, *, is_beat: bool) -> None:
        """Who is accused must know in order to contradict: at once, and again while I am an accuser."""
        membership = self._state.membership
        accused = membership.to_warn()
        if is_beat:
            accused += choose(membership.accused(), self._state.config.gossip.fan_out, self._state.doors.rng)
        for peer in dict.fromkeys(accused):
            if self._is_free(peer):
                self._spawn(peer, ())

    def _speak_to_the_absent(self) -> None:
        """The dead, slowly; and now and then everything to one of the living."""
        state, now_s = self._state, self._state.now_s()
        for peer in self._absent.due([peer.id for peer in state.membership.dead()], now_s, state.doors.rng):
            self._spawn(peer, (), is_full=True)
        period_s = state.config.gossip.push_pull_s
        if self._full_s is None or now_s >= self._full_s:
            if self._full_s is not None:
                for peer in choose(state.membership.live(), 1, state.doors.rng):
                    self._spawn(peer, (), is_full=True)
            self._full_s = now_s + period_s * state.doors.rng.uniform(0.5, 1.0)

    def _speak_to_strangers(self) -> None:
        for address in self.strangers.due(self._state.now_s()):
            if address in self._state.addresses:
                self.strangers.forget(address)
            elif not self._is_free(address):
                self.strangers.postpone(address, self._state.now_s() + BUSY_S)
            else:
                self.strangers.called(address, self._state.now_s())
                self._spawn(address, ())

    def _is_free(self, target: PeerId | str) -> bool:
        """Not being talked to, or for so long that the call is probably lost."""
        return self._state.now_s() - self._busy.get(target, -BUSY_S) >= BUSY_S

    def _spawn(self, target: PeerId | str, fresh: tuple[ContributionId, ...], *, is_full: bool = False) -> None:
        self._busy[target] = self._state.now_s()
        self._group.create_task(self._exchange(target, fresh, is_full=is_full))

    async def _exchange(self, target: PeerId | str, fresh: tuple[ContributionId, ...], *, is_full: bool) -> None:
        """One call both ways; whatever goes wrong is the other side's loss, not ours."""
        deadline_s = self._state.config.gossip.call_deadline_s
        peer = target if isinstance(target, bytes) else None
        message, body = self.compose(peer, fresh, is_full=is_full)
        request = Request("POST", "/v1/gossip", body, FULL if is_full else "")
        home = self._calls.home(peer) if peer is not None else None
        try:
            if isinstance(target, str):
                reply = await self._calls.to_address(target, request, deadline_s)
            else:
                reply = await self._calls.to_peer(target, request, deadline_s)
            if reply.status == 200:
                answer = decode_gossip(reply.body)
                if isinstance(target, str):
                    self.strangers.forget(target)
                self._state.spoken.told(answer.sender, message.reports)
                self._state.spoken.told_of(answer.sender, map(contribution_id, message.fresh))
                self._state.spoken.told_of(answer.sender, (id_ for id_, _ in message.inline), is_whole=True)
                self.listening.absorb(answer, is_answer=True)
                if peer is not None and answer.sender != peer and home == self._calls.home(peer):
                    self.listening.answered_for(peer, answer.sender)
            elif reply.status == 409:
                self.foreign.met(reply)
        except RemoteError:
            if peer is not None:
                self._state.prober.missed(peer)
        finally:
            self._busy.pop(target, None)

    def farewell(self) -> Request:
        """The last call: everybody's reports, my final one among them, and the news of all who left and that I do."""
        state = self._state
        state.is_leaving = True
        gone = Rumour(state.me, state.incarnation, "left", state.me)
        own = [state.report(is_beat=True), *(report for report, _ in state.membership.reports())]
        message = Gossip(
            run_id=state.run_id,
            sender=state.me,
            reports=tuple(own[:REPORTS_PER_CALL_MAX]),
            rumours=(gone, *state.membership.gone())[:RUMOURS_PER_CALL_MAX],
        )
        return Request("POST", "/v1/gossip", encode_gossip(fit_gossip(message)))

    def compose(
        self, peer: PeerId | None, fresh: tuple[ContributionId, ...], *, is_full: bool = False
    ) -> tuple[Gossip, bytes]:
        """What to tell this peer (None: a stranger) now, within the limits of one call, and its bytes.

        `is_full`: whatever it is thought to know of the members (what does not fit follows with the next calls).
        """
        state = self._state
        if peer is not None and is_full:
            state.spoken.doubt(peer)
        theirs = state.membership.report_of(peer) if peer is not None else None
        held = state.spoken.holds(peer, theirs) if peer is not None else {}
        shard = theirs.shards[0] if theirs and theirs.shards else None
        own = [state.report(), *(report for report, _ in state.membership.reports())]
        reminder = state.membership.to_remind(peer) if peer is not None else None
        news = state.spoken.news(peer, own)
        entries = [state.ledger.entries[i] for i in fresh if i in state.ledger.entries]
        message = Gossip(
            run_id=state.run_id,
            sender=state.me,
            reports=news if reminder is None else (reminder, *news)[:REPORTS_PER_CALL_MAX],
            rumours=state.membership.tell(peer, all_=is_full) if peer is not None else (),
            have=haves(state.ledger, shard, [e.id for e in entries], held) if peer is not None else (),
            fresh=tuple(e.manifest for e in entries),
            inline=tuple(
                (e.id, tuple(bytes(s) for s in e.segments if s is not None))
                for e in entries
                if e.is_complete and is_small(e.manifest, INLINE_BYTES_MAX)
            ),
        )
        try:
            return message, encode_gossip(message)
        except ValueError:
            fitted = fit_gossip(message)
            return fitted, encode_gossip(fitted)

    # -- listening --------------------------------------------------------------------------------------------------

    def answer(self, body: bytes | bytearray | memoryview, *, is_full: bool = False) -> Reply:
        """The server's side of an exchange. Raises `WireError`."""
        state = self._state
        message = decode_gossip(body)
        if message.run_id != state.run_id:
            return Reply(409, encode_run(self.foreign.description()))
        self.absorb(message)
        if message.sender == state.me:  # a copy of me, which must learn what I am
            return Reply(200, self.compose(None, ())[1])
        reply, encoded = self.compose(message.sender, (), is_full=is_full)
        state.spoken.told(message.sender, reply.reports)
        return Reply(200, encoded)

    def absorb(self, message: Gossip) -> None:
        """Take in what a member of my run says of its own accord."""
        self.listening.absorb(message, is_answer=False)
        if self._interval_s > self._state.config.gossip.gossip_interval_s and self._is_stirred:
            self._state.bells["gossip"].ring()

    def admit(self, id_: ContributionId, manifest: Contribution) -> bool:
        """See `Admitting.admit`."""
        return self.admitting.admit(id_, manifest)
