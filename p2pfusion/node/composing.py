"""Finding the words: what one gossip call or its answer says to one peer, within the limits of a call.

Part of the talking task: `node.gossiping` decides whom to speak to and sends what this module makes. It changes nothing
but what is remembered of what was said.
"""

from __future__ import annotations

from collections.abc import Mapping

from p2pfusion.config import REPORTS_PER_CALL_MAX, RUMOURS_PER_CALL_MAX
from p2pfusion.node.state import State
from p2pfusion.seams import Request
from p2pfusion.swarm.gossip import haves, is_small
from p2pfusion.swarm.ledger import Entry
from p2pfusion.swarm.telling import Telling
from p2pfusion.wire.codec import encode_gossip, fit_gossip, squeezed
from p2pfusion.wire.messages import ContributionId, Gossip, Have, PeerId, Report, Rumour


class Composing:
    """Puts one node's messages together."""

    def __init__(self, state: State, telling: Telling) -> None:
        self._state = state
        self._telling = telling

    def compose(
        self,
        peer: PeerId | None,
        fresh: tuple[ContributionId, ...],
        *,
        is_full: bool = False,
        is_beat: bool = False,
    ) -> tuple[Gossip, bytes]:
        """What to tell this peer (None: a stranger) now, within the limits of one call, and its bytes.

        `is_full`: whatever it is thought to know of the members (what does not fit follows with the next calls).
        `is_beat`: all that it is not known to know, however often I told it others.
        """
        state = self._state
        if peer is not None and is_full:
            state.spoken.doubt(peer)
        entries = [state.ledger.entries[i] for i in fresh if i in state.ledger.entries]
        inline = [e for e in entries if e.is_complete and is_small(e.manifest)]
        message = Gossip(
            run_id=state.run_id,
            sender=state.me,
            reports=self._reports(peer, is_all=is_full or is_beat),
            rumours=state.membership.tell(peer, all_=is_full) if peer is not None else (),
            have=self._haves(peer, entries, inline, is_full=is_full) if peer is not None else (),
            fresh=tuple(e.manifest for e in entries),
            inline=tuple((e.id, tuple(bytes(s) for s in e.segments if s is not None)) for e in inline),
        )
        try:
            return message, squeezed(encode_gossip(message))
        except ValueError:
            fitted = fit_gossip(message)
            return fitted, squeezed(encode_gossip(fitted))

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
        return Request("POST", "/v1/gossip", squeezed(encode_gossip(fit_gossip(message))))

    def _reports(self, peer: PeerId | None, *, is_all: bool) -> tuple[Report, ...]:
        """My line, others' lines that it has not heard, and first what it must be reminded of."""
        state = self._state
        others = [report for report, _ in state.membership.reports()]
        relays_max = state.config.gossip.relays_max
        if len(others) <= state.config.gossip.direct_members_max:
            relays_max = 0  # everybody tells everybody itself
        news = state.spoken.news(peer, [state.report(), *others], None if is_all else relays_max)
        reminder = state.membership.to_remind(peer) if peer is not None else None
        return news if reminder is None else (reminder, *news)[:REPORTS_PER_CALL_MAX]

    def _haves(self, peer: PeerId, entries: list[Entry], inline: list[Entry], *, is_full: bool) -> tuple[Have, ...]:
        state = self._state
        theirs = state.membership.report_of(peer)
        shard = theirs.shards[0] if theirs and theirs.shards else None
        held: Mapping[ContributionId, bool] = state.spoken.holds(peer, theirs)
        held = {**held, **dict.fromkeys((entry.id for entry in inline), True)} if inline else held
        since_s = state.now_s() - (0.0 if is_full else self._telling.patience_s)
        opened_at_s = state.ledger.opened_at_s

        def is_settled(entry: Entry) -> bool:
            """Large, or not so new that its author's own call with all of it may be on its way."""
            is_old = opened_at_s.get(entry.manifest.round, 0.0) <= since_s
            return is_old or not is_small(entry.manifest)

        return haves(state.ledger, shard, [e.id for e in entries], held, is_settled)
