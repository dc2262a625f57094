"""What `swarm.membership` keeps of one member: its last line, its status, what was said of it, when it spoke itself."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfusion.swarm.suspicion import Suspicion
from p2pfusion.swarm.view import Peer, Status
from p2pfusion.wire.messages import Report, Rumour


@dataclass(slots=True)
class Record:
    """One member, me excepted. Only membership changes it."""

    report: Report
    since_s: float
    """When the status last changed."""
    status: Status = "alive"
    suspicion: Suspicion | None = None
    accusation: Rumour | None = None
    """The worst that was said of it: what it must contradict, what it died of, or that it left."""
    word_s: float = -1.0
    word: tuple[int, int] = (-1, -1)
    """When it last spoke to me itself, and which of its reports that was at most."""
    is_behind: bool = False
    """It speaks of itself as of an older life, or as another: it must be told what is known of it."""
    is_disputed: bool = False
    """Another id spoke from its address and yet it lives: that is no evidence about it any more."""
    shown: Peer | None = None
    """It as others see it, as long as that is true: beats change all the time, this hardly ever."""

    @property
    def version(self) -> tuple[int, int]:
        return self.report.incarnation, self.report.beat


def peer_of(record: Record) -> Peer:
    """The member as others may see it."""
    report, shown = record.report, record.shown
    if (
        shown is not None
        and (shown.status, shown.role, shown.incarnation) == (record.status, report.role, report.incarnation)
        and (shown.name, shown.addresses) == (report.name, report.addresses)
    ):
        return shown
    record.shown = Peer(
        id=report.peer,
        name=report.name,
        addresses=report.addresses,
        incarnation=report.incarnation,
        status=record.status,
        role=report.role,
    )
    return record.shown
