"""Taking in what a message says of the members: reports, rumours, and that its sender lives.

Part of the talking task: `node.gossiping` brings the messages and does what this module wishes for (`wishes`). Whose
word counts for what is `swarm.membership`'s affair; it speaks to nobody.
"""

from __future__ import annotations

from p2pfusion.node.admitting import Admitting
from p2pfusion.node.calls import Strangers
from p2pfusion.node.state import State
from p2pfusion.swarm.membership import Change
from p2pfusion.wire.messages import Gossip, PeerId, Report

CLAIMS_MAX = 64
"""Newcomers that say they live at a live member's address and were not called back yet; more wait for silence."""


class Listening:
    """What was heard, and what follows from it for the next words."""

    def __init__(self, state: State, strangers: Strangers, admitting: Admitting) -> None:
        self._state = state
        self._strangers = strangers
        self._admitting = admitting
        self._claims: dict[PeerId, None] = {}
        self._wishes: dict[PeerId, None] = {}
        self.has_news = False
        """Somebody's line changed, and not only its beat; whoever reads it resets it."""

        self.is_pressing = False
        """Somebody was cleared of suspicion, or is to be called: more should be said at once."""

    def wishes(self) -> list[PeerId]:
        """Whom to exchange everything with at once: those back from the dead, and those whose claim is to be seen."""
        wishes, self._wishes, self.is_pressing = list(self._wishes), {}, False
        return wishes

    def absorb(self, message: Gossip, *, is_answer: bool) -> None:
        """Take in what a member of my run says; `is_answer`: to a call of mine, so that it says so now."""
        state, sender = self._state, message.sender
        if message.run_id != state.run_id:
            return
        if sender == state.me:
            for report in message.reports:
                if report.peer == state.me:
                    state.seen_myself(report, is_direct=True)
            return
        if is_answer:
            self._tell(state.membership.heard(sender, state.now_s()))
            state.prober.acked(sender)
        state.spoken.told(sender, message.reports)
        is_news = [self._absorb_report(report, sender) for report in message.reports]
        for rumour in message.rumours:
            if rumour.peer == state.me:
                state.refute(rumour)
            else:
                changes = state.membership.hear_rumour(rumour, state.now_s(), sender)
                if changes is not None:
                    state.tell(changes)
                    state.bells["gossip"].ring()
        if is_answer:
            self._settle_claim(sender)
        self._admitting.absorb(message)
        if any(is_news):
            for name in ("chain", "round"):
                state.bells[name].ring()

    def answered_for(self, peer: PeerId, other: PeerId) -> None:
        """At the address where `peer` used to answer, `other` did."""
        state = self._state
        if other != state.me:
            state.tell(state.membership.displaced(peer, other, state.now_s()))

    def _absorb_report(self, report: Report, sender: PeerId) -> bool:
        state, known = self._state, self._state.membership.report_of(report.peer)
        if report.peer == state.me:
            state.seen_myself(report, is_direct=False)
            return False
        changes = state.membership.observe(report, state.now_s(), sender)
        if changes is None:
            return False
        if known is not None and report.incarnation > known.incarnation:
            state.spoken.forget(report.peer)  # it may have begun anew, knowing nothing
        self.has_news |= known is None or _said(report) != _said(known)
        for address in report.addresses:
            self._strangers.forget(address)
        self._tell(changes)
        if sender == report.peer:
            state.prober.acked(sender)
            if known is None or known.addresses != report.addresses:
                self._note_claim(report)
        for shard in report.shards[:1]:
            state.ledger.saw_round(shard.newest)
        if report.stop is not None:
            state.learn_stop(report.stop)
        return True

    def _tell(self, changes: list[Change]) -> None:
        """Who is back from the dead has missed much, and so have we."""
        for change in changes:
            self.is_pressing |= change.status == "alive" and change.before is not None
            if change.status == "alive" and change.before == "dead":
                self._wishes[change.peer] = None
        self._state.tell(changes)

    # -- who lives where ----------------------------------------------------------------------------------------------

    def _note_claim(self, report: Report) -> None:
        """It says that it lives where another member does: only an answer from there proves it, for requests linger."""
        if len(self._claims) < CLAIMS_MAX and self._state.membership.neighbours(report):
            self._claims[report.peer] = self._wishes[report.peer] = None
            self.is_pressing = True
            self._state.bells["gossip"].ring()

    def _settle_claim(self, peer: PeerId) -> None:
        if peer in self._claims:
            del self._claims[peer]
            report = self._state.membership.report_of(peer)
            for other in self._state.membership.neighbours(report) if report is not None else ():
                self.answered_for(other, peer)


def _said(report: Report) -> tuple[object, ...]:
    """All of a line but its beat."""
    return report.shards, report.role, report.incarnation, report.stop, report.owes_graft, report.addresses, report.name
