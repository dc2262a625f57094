"""Who is here: a first membership, fed by reports alone.

A member's own report, numbered by (incarnation, beat) and relayed by anyone, is its sign of life; silence makes it
suspect, then dead; a rumour says it left. A node that slept knows nothing about the others and starts every clock anew
(PROTOCOL.md 4): without that rule each waking node believes itself alone. SWIM's probes come with the churn issue.

A step machine: `now_s` comes in, `Change`s go out. It knows no network and no ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfusion.config import PEERS_MAX
from p2pfusion.wire.messages import PeerId, Report, Role, Rumour

Status = Literal["alive", "suspect", "dead", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A member as I see it. `address` is where it said it can be reached (several: in order of preference)."""

    id: PeerId
    name: str
    addresses: tuple[str, ...]
    incarnation: int
    status: Status
    role: Role


@dataclass(frozen=True, slots=True)
class View:
    """Who takes part, frozen at one moment: `peers` are the live members besides me, sorted by id."""

    me: PeerId
    peers: tuple[Peer, ...]
    at_s: float

    def trainers(self) -> tuple[PeerId, ...]:
        """Ids of everybody who trains and is not suspect, me included, sorted."""
        others = [p.id for p in self.peers if p.role == "trains" and p.status == "alive"]
        return tuple(sorted([self.me, *others]))


@dataclass(frozen=True, slots=True)
class Change:
    """A member changed its status."""

    peer: PeerId
    name: str
    status: Status


@dataclass(slots=True)
class _Record:
    report: Report
    heard_s: float
    status: Status
    left_incarnation: int = -1


class Membership:
    """Everybody this node has heard of. Bounded by `PEERS_MAX`; those dead or gone longest are forgotten first."""

    def __init__(self, me: PeerId, *, suspect_s: float, dead_s: float) -> None:
        self.me = me
        self.suspect_s = suspect_s
        self.dead_s = dead_s
        self._records: dict[PeerId, _Record] = {}

    def __repr__(self) -> str:
        return f"<Membership {', '.join(f'{r.report.name} {r.status}' for _, r in sorted(self._records.items()))}>"

    def observe(self, report: Report, now_s: float) -> list[Change] | None:
        """Take a member's report. None when it is not newer than what is known; then nothing changes."""
        if report.peer == self.me:
            return None
        known = self._records.get(report.peer)
        if known is None:
            if len(self._records) >= PEERS_MAX and not self._forget_one():
                return None
            self._records[report.peer] = _Record(report, now_s, "alive")
            return [Change(report.peer, report.name, "alive")]
        if (report.incarnation, report.beat) <= (known.report.incarnation, known.report.beat):
            return None
        has_left = known.status == "left" and report.incarnation <= known.left_incarnation
        was, known.report, known.heard_s = known.status, report, now_s
        if has_left or was == "alive":
            return []
        known.status = "alive"
        return [Change(report.peer, report.name, "alive")]

    def hear_rumour(self, rumour: Rumour) -> list[Change] | None:
        """Somebody left. None when that is old news or the one who left is unknown."""
        known = self._records.get(rumour.peer)
        if known is None or known.status == "left" or rumour.incarnation < known.report.incarnation:
            return None
        known.status, known.left_incarnation = "left", rumour.incarnation
        return [Change(rumour.peer, known.report.name, "left")]

    def tick(self, now_s: float) -> list[Change]:
        """Silence becomes suspicion, suspicion death."""
        changes = []
        for peer, record in sorted(self._records.items()):
            silent_s = now_s - record.heard_s
            if record.status in ("alive", "suspect") and silent_s >= self.dead_s:
                record.status = "dead"
            elif record.status == "alive" and silent_s >= self.suspect_s:
                record.status = "suspect"
            else:
                continue
            changes.append(Change(peer, record.report.name, record.status))
        return changes

    def woke(self, now_s: float) -> None:
        """I stood still longer than the suspicion time: I know nothing about the others, so every clock starts anew."""
        for record in self._records.values():
            record.heard_s = now_s

    def view(self, now_s: float) -> View:
        live = [r for _, r in sorted(self._records.items()) if r.status in ("alive", "suspect")]
        return View(self.me, tuple(_peer(r) for r in live), now_s)

    def reports(self) -> list[tuple[Report, Status]]:
        """Reports of the live members, sorted by id."""
        return [(r.report, r.status) for _, r in sorted(self._records.items()) if r.status in ("alive", "suspect")]

    def report_of(self, peer: PeerId) -> Report | None:
        record = self._records.get(peer)
        return record.report if record else None

    def dead(self) -> list[Peer]:
        """Members whose addresses are tried again now and then: a healed partition must find itself."""
        return [_peer(r) for _, r in sorted(self._records.items()) if r.status == "dead"]

    def gone(self) -> list[Rumour]:
        """News worth passing on: who left."""
        return [Rumour(p, r.left_incarnation, "left") for p, r in sorted(self._records.items()) if r.status == "left"]

    def _forget_one(self) -> bool:
        gone = [(r.heard_s, p) for p, r in self._records.items() if r.status in ("dead", "left")]
        if gone:
            del self._records[min(gone)[1]]
        return bool(gone)


def _peer(record: _Record) -> Peer:
    report = record.report
    return Peer(
        id=report.peer,
        name=report.name,
        addresses=report.addresses,
        incarnation=report.incarnation,
        status=record.status,
        role=report.role,
    )
