"""Talking: `POST /v1/gossip` to a few peers now and then and whenever something changed; taking in what is said.

A task of the node. What to say and to whom `swarm.gossip` decides; what is believed, the gate and the ledger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from p2pfusion.config import (
    FRESH_PER_CALL_MAX,
    INLINE_BYTES_MAX,
    OPEN_ROUNDS_MAX,
    REPORTS_PER_CALL_MAX,
    RUMOURS_PER_CALL_MAX,
)
from p2pfusion.errors import Refused, RemoteError
from p2pfusion.node.calls import Calls, Strangers
from p2pfusion.node.state import State
from p2pfusion.seams import Reply, Request
from p2pfusion.swarm.gate import judge, judge_segment
from p2pfusion.swarm.gossip import choose, haves, is_small, rumours
from p2pfusion.wire.codec import (
    contribution_id,
    decode_gossip,
    decode_run,
    encode_gossip,
    encode_run,
    fit_gossip,
)
from p2pfusion.wire.description import first_difference
from p2pfusion.wire.messages import (
    FLOOR_NEVER,
    Contribution,
    ContributionId,
    Gossip,
    Have,
    PeerId,
    Report,
    Rumour,
    RunDescription,
)

FRESH_WAITING_MAX = 256
"""Manifests waiting to be passed on; the oldest go first, `have` brings what was missed."""
BUSY_S = 0.25
"""While a call is under way and younger than this, nothing but fresh work starts another to the same peer."""
FOREIGN_MAX = 64
"""Nodes of other runs that are warned about, once each."""
REJECTED_MAX = 4096
"""Ids not worth asking for again: refused by the gate, or too late."""


class Gossiping:
    """One node's share of the talk."""

    def __init__(self, state: State, calls: Calls, group: asyncio.TaskGroup, refuse: Callable[[Refused], None]) -> None:
        """`refuse` is called when the swarm we meet is another run and we are the ones to go."""
        self._state = state
        self._calls = calls
        self._group = group
        self._refuse = refuse
        self.strangers = Strangers(state.config.peers)
        self._fresh: deque[ContributionId] = deque(maxlen=FRESH_WAITING_MAX)
        self._rejected: dict[ContributionId, int] = {}
        """Ids not worth asking for while the tip is at this round or above: 0 for ever, or the sealed one."""
        self._busy: dict[PeerId | str, float] = {}
        self._foreign: dict[PeerId, None] = {}
        self._told: Report | None = None

    # -- speaking ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Speak for ever: a beat every interval, and at once (coalesced) when something changed."""
        state, gossip = self._state, self._state.config.gossip
        interval_s = gossip.gossip_interval_s
        beat_s = state.now_s()
        while True:
            rang = await state.bells["gossip"].wait(beat_s - state.now_s())
            now_s = state.now_s()
            if now_s - beat_s > gossip.dead_s:
                state.membership.woke(now_s)
            if now_s >= beat_s:
                state.tell(state.membership.tick(now_s))
                quiet = self._told == state.report()
                interval_s = min(interval_s * 2, gossip.gossip_interval_max_s) if quiet else gossip.gossip_interval_s
                beat_s = now_s + interval_s * state.doors.rng.uniform(0.9, 1.1)
                self._speak(is_beat=True)
            elif rang and (self._fresh or self._is_urgent(state.report())):
                await asyncio.sleep(gossip.coalesce_s)
                self._speak(is_beat=False)

    def pass_on(self, id_: ContributionId) -> None:
        """A manifest seen for the first time: tell some peers at once."""
        self._fresh.append(id_)
        self._state.bells["gossip"].ring()

    def _is_urgent(self, report: Report) -> bool:
        """Whether others wait for this news: a new tip, floor or role, or a round I now hold everybody's work of.

        A round that is still filling up changes its digest with every arrival; that can wait for the next beat.
        """
        told, state = self._told, self._state
        if told is None or (told.role, told.stop) != (report.role, report.stop):
            return True
        shard, before = report.shards[0], told.shards[0]
        if (shard.tip_chain, shard.floor) != (before.tip_chain, before.floor):
            return True
        known = dict(before.digests)
        trainers = state.membership.view(state.now_s()).trainers()
        return any(
            known.get(round_) != digest and all(peer in state.arrived(round_) for peer in trainers)
            for round_, digest in shard.digests
        )

    def _speak(self, *, is_beat: bool) -> None:
        state, rng = self._state, self._state.doors.rng
        self._told = state.report(is_beat=is_beat)
        fresh = tuple(self._fresh)[:FRESH_PER_CALL_MAX]
        for _ in fresh:
            self._fresh.popleft()
        live = [peer.id for peer in state.membership.view(state.now_s()).peers]
        for peer in choose(live, state.config.gossip.fan_out, rng):
            news = tuple(id_ for id_ in fresh if not state.spoken.knows(peer, id_))
            if news or self._is_free(peer):
                self._spawn(peer, news)
        if is_beat:
            self._speak_to_strangers()
            if dead := choose([p.id for p in state.membership.dead()], 1, rng):
                self._spawn(dead[0], ())

    def _speak_to_strangers(self) -> None:
        for address in self.strangers.due(self._state.now_s()):
            if address in self._state.addresses:
                self.strangers.forget(address)
            elif self._is_free(address):
                self.strangers.called(address, self._state.now_s())
                self._spawn(address, ())

    def _is_free(self, target: PeerId | str) -> bool:
        """Not being talked to, or for so long that the call is probably lost."""
        return self._state.now_s() - self._busy.get(target, -BUSY_S) >= BUSY_S

    def _spawn(self, target: PeerId | str, fresh: tuple[ContributionId, ...]) -> None:
        self._busy[target] = self._state.now_s()
        self._group.create_task(self._exchange(target, fresh))

    async def _exchange(self, target: PeerId | str, fresh: tuple[ContributionId, ...]) -> None:
        """One call both ways; whatever goes wrong is the other side's loss, not ours."""
        deadline_s = self._state.config.gossip.call_deadline_s
        peer = target if isinstance(target, bytes) else None
        message, body = self.compose(peer, fresh)
        request = Request("POST", "/v1/gossip", body)
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
                self.absorb(answer)
            elif reply.status == 409:
                self._other_run(reply)
        except RemoteError:
            pass
        finally:
            self._busy.pop(target, None)

    def farewell(self) -> Request:
        """The last call: everybody's reports, my final one among them, and the news of all who left and that I do."""
        state = self._state
        gone = Rumour(state.me, state.incarnation, "left")
        own = [state.report(is_beat=True), *(report for report, _ in state.membership.reports())]
        message = Gossip(
            run_id=state.run_id,
            sender=state.me,
            reports=tuple(own[:REPORTS_PER_CALL_MAX]),
            rumours=(gone, *rumours(state.membership))[:RUMOURS_PER_CALL_MAX],
        )
        return Request("POST", "/v1/gossip", encode_gossip(fit_gossip(message)))

    def compose(self, peer: PeerId | None, fresh: tuple[ContributionId, ...]) -> tuple[Gossip, bytes]:
        """What to tell this peer (None: a stranger) now, within the limits of one call, and its bytes."""
        state = self._state
        theirs = state.membership.report_of(peer) if peer is not None else None
        shard = theirs.shards[0] if theirs and theirs.shards else None
        own = [state.report(), *(report for report, _ in state.membership.reports())]
        entries = [state.ledger.entries[i] for i in fresh if i in state.ledger.entries]
        message = Gossip(
            run_id=state.run_id,
            sender=state.me,
            reports=state.spoken.news(peer, own),
            rumours=rumours(state.membership),
            have=haves(state.ledger, shard, [e.id for e in entries]) if peer is not None else (),
            fresh=tuple(e.manifest for e in entries),
            inline=tuple(
                (e.id, tuple(s for s in e.segments if s is not None))
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

    def answer(self, body: bytes | bytearray | memoryview) -> Reply:
        """The server's side of an exchange. Raises `WireError`."""
        state = self._state
        message = decode_gossip(body)
        if message.run_id != state.run_id:
            return Reply(409, encode_run(self._description()))
        self.absorb(message)
        reply, encoded = self.compose(message.sender, ())
        state.spoken.told(message.sender, reply.reports)
        return Reply(200, encoded)

    def absorb(self, message: Gossip) -> None:
        """Take in what a member of my run says."""
        state = self._state
        if message.run_id != state.run_id or message.sender == state.me:
            return
        state.spoken.told(message.sender, message.reports)
        is_news = [self._absorb_report(report) for report in message.reports]
        for rumour in message.rumours:
            state.tell(state.membership.hear_rumour(rumour) or [])
        segments = dict(message.inline)
        for manifest in message.fresh:
            self._absorb_manifest(manifest, message.sender, segments)
        state.spoken.told_of(message.sender, [have.id for have in message.have])
        for have in message.have:
            self._absorb_have(have, message.sender)
        if any(is_news):
            for name in ("chain", "round"):
                state.bells[name].ring()

    def _absorb_report(self, report: Report) -> bool:
        state = self._state
        changes = state.membership.observe(report, state.now_s())
        if changes is None:
            return False
        for address in report.addresses:
            self.strangers.forget(address)
        state.tell(changes)
        for shard in report.shards[:1]:
            state.ledger.saw_round(shard.newest)
        if report.stop is not None:
            state.learn_stop(report.stop)
        return True

    def _absorb_have(self, have: Have, sender: PeerId) -> None:
        entry = self._state.ledger.entries.get(have.id)
        if not self._is_rejected(have.id) and (entry is None or not entry.is_complete):
            self._state.wanted.offer(have.id, sender, have.bitmap)
            self._state.bells["fetch"].ring()

    def _absorb_manifest(
        self, manifest: Contribution, sender: PeerId, segments: dict[ContributionId, tuple[bytes, ...]]
    ) -> None:
        id_, ledger = contribution_id(manifest), self._state.ledger
        self._state.spoken.told_of(sender, [id_])
        if id_ in ledger.entries or self._is_rejected(id_) or not self.admit(id_, manifest):
            return
        entry = ledger.entries[id_]
        for index, data in enumerate(segments.get(id_, ())):
            if (
                index < len(entry.segments)
                and judge_segment(manifest, index, data) is None
                and ledger.put(entry, index, data)
            ):
                self._state.completed(entry)
        if sender == manifest.peer and not entry.is_complete:
            self._state.wanted.offer(id_, sender, None)
        self._state.bells["fetch"].ring()

    def admit(self, id_: ContributionId, manifest: Contribution) -> bool:
        """The gate, then the ledger; a new one is passed on. False: refused or too late, not to be asked for again.

        One for a round too far ahead is not kept either, but it may be offered again when the tip has followed.
        """
        state = self._state
        reason = judge(manifest, state.blueprint, state.config.run)
        wanted = id_ in state.needed
        if reason is None and state.ledger.add(id_, manifest, state.now_s(), wanted=wanted) is not None:
            self.pass_on(id_)
            return True
        if reason is not None:
            state.warn("refused-contribution", f"peer {manifest.peer.hex()[:8]} sent a contribution refused: {reason}")
        elif manifest.round <= state.ledger.tip.round:
            state.late += 1
        state.wanted.done(id_)
        if reason is not None or manifest.round <= state.ledger.tip.round + OPEN_ROUNDS_MAX:
            if len(self._rejected) >= REJECTED_MAX:
                del self._rejected[next(iter(self._rejected))]
            is_late = reason is None and manifest.round <= state.ledger.tip.round
            self._rejected[id_] = manifest.round if is_late else 0
        return False

    def _is_rejected(self, id_: ContributionId) -> bool:
        """A switch to a shorter chain opens rounds again, and with them what came too late for mine."""
        return self._rejected.get(id_, FLOOR_NEVER) <= self._state.ledger.tip.round

    # -- another run ------------------------------------------------------------------------------------------------

    def _description(self) -> RunDescription:
        state = self._state
        members = len(state.membership.view(state.now_s()).peers) + 1
        return replace(state.described, members=members, newest=state.ledger.newest)

    def _other_run(self, reply: Reply) -> None:
        """We met a swarm of our name that is another run: who has not begun and has less to lose goes, and says why."""
        state, mine, theirs = self._state, self._description(), decode_run(reply.body)
        difference = first_difference(mine, theirs) or "another run"
        text = (
            f"the swarm {state.config.run.swarm!r} runs something else: {difference}. "
            "Use the same task, seed and settings as the others, or choose another --swarm NAME"
        )
        if state.role != "syncing":
            if theirs.sender not in self._foreign and len(self._foreign) < FOREIGN_MAX:
                self._foreign[theirs.sender] = None
                state.warn("other-run", text)
        elif (theirs.newest, theirs.members, theirs.sender) > (mine.newest, mine.members, mine.sender):
            self._refuse(Refused(text))
