"""Talking: `POST /v1/gossip` to a few peers now and then and whenever something changed.

A task of the node. To whom to speak `swarm.telling` decides in a small swarm, where everybody tells everybody itself,
and chance in a large one, where news is relayed; `node.composing` finds the words. What is said to us goes to
`node.listening` (members) and `node.admitting` (contributions).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf

from p2pfusion.config import FRESH_PER_CALL_MAX
from p2pfusion.errors import Refused, RemoteError
from p2pfusion.node.admitting import Admitting
from p2pfusion.node.calls import Absent, Calls, Strangers
from p2pfusion.node.composing import Composing
from p2pfusion.node.foreign import Foreign
from p2pfusion.node.listening import Listening
from p2pfusion.node.state import State
from p2pfusion.node.traffic import UNKNOWN
from p2pfusion.seams import Body, Reply, Request
from p2pfusion.swarm.gossip import choose
from p2pfusion.swarm.telling import Telling
from p2pfusion.wire.codec import contribution_id, decode_gossip, encode_run, framed_bytes
from p2pfusion.wire.messages import Contribution, ContributionId, Gossip, PeerId, Report

FRESH_WAITING_MAX = 256
"""Manifests waiting to be passed on; the oldest go first, `have` brings what was missed."""
BUSY_S = 0.25
"""While a call is under way and younger than this, nothing but fresh work starts another to the same peer."""
PRESSING_ROUNDS = 2
"""Rounds are sealed in order: who holds the next one in full, and the one after it, keeps others from waiting."""
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
        self.admitting = Admitting(state, self.pass_on, group)
        self.listening = Listening(state, self.strangers, self.admitting)
        self._telling = Telling(state.me, state.config.gossip)
        composing = Composing(state, self._telling)
        self.compose, self.farewell = composing.compose, composing.farewell
        self._fresh: deque[ContributionId] = deque(maxlen=FRESH_WAITING_MAX)
        self._busy: dict[PeerId | str, float] = {}
        self.foreign = Foreign(state, refuse)
        self._told: Report | None = None
        """My report at the last beat."""
        self._line: object = None
        """The part of my report that others wait for, as it was when some were told last."""
        self._flush_s = inf
        """When what is new is told to some at random: a coalescing time after the first of it."""
        self._interval_s = state.config.gossip.gossip_interval_s
        self._full_s: float | None = None
        """When everything is next told to somebody, whatever it is thought to know."""
        self._absent = Absent(state.config.gossip)

    # -- speaking ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Speak for ever: a beat every interval, and at once (coalesced) when something changed."""
        state, gossip = self._state, self._state.config.gossip
        beat_s = look_s = state.now_s()
        while True:
            wake_s = min(beat_s, look_s, self._flush_s, self.strangers.next_s())
            await state.bells["gossip"].wait(wake_s - state.now_s())
            now_s = state.now_s()
            self._owe_fresh()
            self._speak_to_strangers()
            if now_s >= beat_s:
                is_quiet = self._told == state.report() and not self._is_stirred
                longer_s = min(self._interval_s * 2, gossip.gossip_interval_max_s)
                self._interval_s = longer_s if is_quiet else gossip.gossip_interval_s
                self.listening.has_news = False
                beat_s = now_s + self._interval_s * state.doors.rng.uniform(0.9, 1.1)
                self._beat()
            look_s = self._speak_of_news(now_s)
            if self._is_stirred and self._interval_s > gossip.gossip_interval_s:
                self._interval_s = gossip.gossip_interval_s
                beat_s = min(beat_s, now_s + self._interval_s)

    @property
    def _is_stirred(self) -> bool:
        """Whether there is something to relay: others' news, rumours, or an accusation of mine."""
        membership = self._state.membership
        return self.listening.has_news or len(membership.rumours) > 0 or len(membership.accused()) > 0

    @property
    def _is_pressing(self) -> bool:
        """Whether there is news about others that cannot wait for the next beat."""
        return self._state.membership.rumours.has_untold or self.listening.is_pressing

    def pass_on(self, id_: ContributionId) -> None:
        """A manifest seen for the first time: tell those at once who are to hear of it from me."""
        self._fresh.append(id_)
        self._state.bells["gossip"].ring()

    def _pressing(self) -> tuple[object, ...]:
        """What others wait to hear of me: a new tip, floor or role, or that I hold everybody's work of a round.

        Of the next rounds to be sealed, that is: later ones can wait for another reason to call, and so can a round
        that is still filling up and changes its digest with every arrival.
        """
        state, ledger = self._state, self._state.ledger
        view, tip = state.membership.view(state.now_s()), ledger.tip
        trainers = view.others() if state.role == "observes" else view.trainers()
        full = tuple(
            ledger.digest(round_)
            for round_ in range(tip.round + 1, tip.round + 1 + PRESSING_ROUNDS)
            if len(ledger.counted(round_)) >= len(trainers) and state.arrived(round_).keys() >= set(trainers)
        )
        return state.role, state.stop, state.incarnation, tip.chain, ledger.floor, full

    def _beat(self) -> None:
        """Some hear from me whatever there is to say, and all that I know."""
        state, gossip = self._state, self._state.config.gossip
        self._told = state.report(is_beat=True)
        self._telling.keep(state.membership.live(), self._is_open)
        is_idle = self._interval_s >= gossip.gossip_interval_max_s
        self._speak_to_some(1 if is_idle else gossip.fan_out, is_beat=True)
        self._speak_to_the_absent()

    def _speak_of_news(self, now_s: float) -> float:
        """Tell what is new to those who are due; when to look again."""
        state, gossip = self._state, self._state.config.gossip
        live, line, look_s = state.membership.live(), self._pressing(), inf
        if len(live) <= gossip.direct_members_max:
            due, look_s = self._telling.due(live, line, now_s)
            for peer in due:
                self._spawn(peer, self._telling.owed(peer))
            is_news = self._is_pressing
        else:
            is_news = bool(self._fresh) or line != self._line or self._is_pressing
        if not is_news:
            self._flush_s = inf
        elif self._flush_s == inf:
            self._flush_s = now_s + gossip.coalesce_s
        elif now_s >= self._flush_s:
            self._flush_s = inf
            self._speak_to_some(gossip.fan_out, is_beat=False)
        return look_s

    def _owe_fresh(self) -> None:
        """In a small swarm I tell everybody of my own work, and nobody of others'."""
        live = self._state.membership.live()
        while self._fresh and len(live) <= self._state.config.gossip.direct_members_max:
            id_ = self._fresh.popleft()
            if self._is_open(id_, is_mine=True):
                self._telling.owe(id_, live)

    def _is_open(self, id_: ContributionId, *, is_mine: bool = False) -> bool:
        """Whether a contribution may still be told of: whoever lacks what is sealed gets it with the link."""
        entry = self._state.ledger.entries.get(id_)
        if entry is None or (is_mine and entry.manifest.peer != self._state.me):
            return False
        return entry.manifest.round > self._state.ledger.tip.round

    def _speak_to_some(self, count: int, *, is_beat: bool) -> None:
        """To so many at random, to those who should contradict what is said of them, and to those that are wished."""
        state = self._state
        self._line = self._pressing()
        fresh = tuple(self._fresh)[:FRESH_PER_CALL_MAX]
        for _ in fresh:
            self._fresh.popleft()
        for peer in choose(state.membership.live(), count, state.doors.rng):
            news = tuple(id_ for id_ in fresh if not state.spoken.knows(peer, id_)) or self._telling.owed(peer)
            if news or self._is_free(peer):
                self._spawn(peer, news, is_beat=is_beat)
        self._speak_to_the_accused(is_beat=is_beat)
        for peer in self.listening.wishes():
            self._spawn(peer, (), is_full=True)

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

    def _spawn(
        self,
        target: PeerId | str,
        fresh: tuple[ContributionId, ...],
        *,
        is_full: bool = False,
        is_beat: bool = False,
    ) -> None:
        self._busy[target] = self._state.now_s()
        if isinstance(target, bytes):
            self._telling.calling(target, self._state.now_s())
        self._group.create_task(self._exchange(target, fresh, is_full=is_full, is_beat=is_beat))

    async def _exchange(
        self, target: PeerId | str, fresh: tuple[ContributionId, ...], *, is_full: bool, is_beat: bool
    ) -> None:
        """One call both ways; whatever goes wrong is the other side's loss, not ours."""
        deadline_s = self._state.config.gossip.call_deadline_s
        peer = target if isinstance(target, bytes) else None
        begin_s, line = self._state.now_s(), self._pressing()
        message, body = self.compose(peer, fresh, is_full=is_full, is_beat=is_beat)
        request = Request("POST", "/v1/gossip", body, FULL if is_full else "")
        home = self._calls.home(peer) if peer is not None else None
        try:
            if isinstance(target, str):
                reply = await self._calls.to_address(target, request, deadline_s)
            else:
                inlined_bytes = _inlined_bytes(message, body)
                reply = await self._calls.to_peer(target, request, deadline_s, inlined_bytes=inlined_bytes)
            if reply.status == 200:
                answer = decode_gossip(reply.body)
                owner = UNKNOWN if peer is None else peer
                self._state.accounts.inlined("received", _inlined_bytes(answer, reply.body), owner)
                if isinstance(target, str):
                    self.strangers.forget(target)
                self._state.spoken.told(answer.sender, message.reports)
                self._state.spoken.told_of(answer.sender, map(contribution_id, message.fresh))
                self._state.spoken.told_of(answer.sender, (id_ for id_, _ in message.inline), is_whole=True)
                self._telling.answered(answer.sender, self._state.now_s() - begin_s)
                self._telling.told(answer.sender, [contribution_id(m) for m in message.fresh], line)
                self._state.bells["gossip"].ring()  # more may have become due meanwhile
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

    # -- listening --------------------------------------------------------------------------------------------------

    def answer(self, body: Body, *, is_full: bool = False, caller: PeerId = UNKNOWN) -> Reply:
        """The server's side of an exchange, accounted to `caller`. Raises `WireError`."""
        state = self._state
        message = decode_gossip(body)
        state.accounts.inlined("received", _inlined_bytes(message, body), caller)
        if message.run_id != state.run_id:
            return Reply(409, encode_run(self.foreign.description()))
        self.absorb(message)
        if message.sender == state.me:  # a copy of me, which must learn what I am
            return Reply(200, self.compose(None, ())[1])
        self._telling.called(message.sender)
        owed = self._telling.owed_back(message.sender, state.now_s())
        reply, encoded = self.compose(message.sender, owed, is_full=is_full)
        state.accounts.inlined("sent", _inlined_bytes(reply, encoded), caller)
        # Should the answer get lost, `have` says soon enough that I hold them: nobody is thought to have the segments.
        ids = [contribution_id(manifest) for manifest in reply.fresh]
        state.spoken.told_of(message.sender, ids)
        is_sure = self._telling.answering(message.sender, ids, self._pressing(), state.now_s())
        state.spoken.told(message.sender, (r for r in reply.reports if not is_sure or r.peer != state.me))
        return Reply(200, encoded)

    def absorb(self, message: Gossip) -> None:
        """Take in what a member of my run says of its own accord."""
        self.listening.absorb(message, is_answer=False)
        if self._interval_s > self._state.config.gossip.gossip_interval_s and self._is_stirred:
            self._state.bells["gossip"].ring()

    def admit(self, id_: ContributionId, manifest: Contribution) -> bool:
        """See `Admitting.admit`."""
        return self.admitting.admit(id_, manifest)


def _inlined_bytes(message: Gossip, body: Body) -> int:
    """Of a message's body, what is segments of contributions: squeezed together, all of it shrinks alike."""
    plain = sum(len(segment) for _, segments in message.inline for segment in segments)
    return plain * memoryview(body).nbytes // framed_bytes(body)
