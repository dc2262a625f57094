"""Who is here: SWIM's statuses with incarnations, Lifeguard's suspicions, tombstones, and whose word counts for what.

    alive   -> suspect   my probe failed, or somebody accuses it (at its incarnation or above)
    suspect -> alive     a report with a higher incarnation; or its own word: it called me, or answered me
    suspect -> dead      its time is up (`swarm.suspicion`)
    any     -> dead      its address speaks under another id: who lost its disk is a new peer
    dead    -> alive     a higher incarnation, or its own word; never an old report relayed by a third party
    any     -> left      it says so; it returns with a higher incarnation only

A peer of which a death is told is suspect first, for the least time, whatever the teller waited: stale news cannot kill
(a healed partition brings plenty), and the accused is always told, so that it can contradict for everybody. A node that
stood still knows nothing about that time, so its clocks do not count it (PROTOCOL.md 4).

A step machine: `now_s` comes in, `Change`s go out. It knows no network and no ledger; `swarm.probing` finds the silent.
"""

from __future__ import annotations

from p2pfusion.config import PEERS_MAX, RUMOURS_PER_CALL_MAX, GossipConfig
from p2pfusion.swarm.records import Record, peer_of
from p2pfusion.swarm.suspicion import Rumours, Suspicion
from p2pfusion.swarm.view import Change, Peer, Status, View
from p2pfusion.wire.messages import PeerId, Report, Rumour

__all__ = ["Change", "Membership", "Peer", "Status", "View"]

TOMBSTONE_S = 24 * 3600.0
"""How long the dead and those who left are remembered (serf's figure): longer than any stale report travels."""


class Membership:
    """Everybody this node has heard of. Bounded by `PEERS_MAX`; those dead or gone longest are forgotten first."""

    def __init__(self, me: PeerId, gossip: GossipConfig) -> None:
        self.me = me
        self.rumours = Rumours()
        self._gossip = gossip
        self._records: dict[PeerId, Record] = {}
        self._suspects: dict[PeerId, None] = {}
        self._to_warn: dict[PeerId, None] = {}
        self._living: tuple[Record, ...] | None = None
        """Those alive or suspect, sorted by id; None when that has to be found out again."""
        self._purge_s = TOMBSTONE_S

    def __repr__(self) -> str:
        return f"<Membership {', '.join(f'{r.report.name} {r.status}' for _, r in sorted(self._records.items()))}>"

    # -- what is heard ------------------------------------------------------------------------------------------------

    def observe(self, report: Report, now_s: float, by: PeerId | None = None) -> list[Change] | None:
        """Take a member's report, said by `by`. None when it is no news: then nothing changes."""
        if report.peer == self.me:
            return None
        known, is_direct = self._records.get(report.peer), by == report.peer
        version = report.incarnation, report.beat
        if known is None:
            if len(self._records) >= PEERS_MAX and not self._forget_one():
                return None
            known = self._records[report.peer] = Record(report, now_s)
            self._living = None
            if is_direct:
                known.word_s, known.word = now_s, version
            return [Change(report.peer, report.name, "alive")]
        is_newer = version > known.version
        if is_direct and not is_newer:
            known.is_behind |= report.incarnation < known.version[0] or report.addresses != known.report.addresses
        if is_direct and version > known.word and (is_newer or known.status in ("alive", "suspect")):
            known.word_s, known.word = now_s, version
            changes = self._revive(known, now_s, report.incarnation)
        elif is_newer and known.accusation is not None and report.incarnation > known.accusation.incarnation:
            changes = self._revive(known, now_s, report.incarnation)
        elif is_newer and known.status != "dead":
            changes = []
        else:
            return None
        if is_newer:
            known.report, known.is_behind = report, False
        return changes if is_newer or changes else None

    def heard(self, peer: PeerId, now_s: float) -> list[Change]:
        """The peer answered me just now: it lives."""
        known = self._records.get(peer)
        if known is None:
            return []
        known.word_s = now_s
        return self._revive(known, now_s)

    def hear_rumour(self, rumour: Rumour, now_s: float, by: PeerId | None = None) -> list[Change] | None:
        """News about another member, told by `by`. None when it is old, or about somebody unknown."""
        changes = self._hear(rumour, now_s)
        if by is not None:
            self.rumours.known_to(rumour, by)
        return changes

    def _hear(self, rumour: Rumour, now_s: float) -> list[Change] | None:
        known = self._records.get(rumour.peer)
        if known is None or known.status == "left" or rumour.incarnation < known.report.incarnation:
            return None
        if rumour.status == "left":
            return self._end(known, rumour, now_s)
        if known.status == "dead":
            if rumour.status == "suspect" and known.accusation is not None:
                self.rumours.add(known.accusation)  # who only suspects it has missed its death
            return None
        if known.status == "alive" and known.word_s >= 0 and now_s - known.word_s < self._gossip.probe_interval_s:
            self._blame(known, rumour)  # it spoke to me after whatever the others waited for
            if rumour.status == "dead":
                self._to_warn[rumour.peer] = None
            return None
        return self._suspect(known, rumour, now_s)

    def accuse(self, peer: PeerId, now_s: float) -> list[Change]:
        """My own probe of this peer found nobody."""
        known = self._records.get(peer)
        if known is None or known.status in ("dead", "left"):
            return []
        self._to_warn[peer] = None
        return self._suspect(known, Rumour(peer, known.report.incarnation, "suspect", self.me), now_s) or []

    def displaced(self, peer: PeerId, by: PeerId, now_s: float) -> list[Change]:
        """`by` itself spoke from the address of `peer`: who lost its disk is a new peer, and the old one is dead."""
        known = self._records.get(peer)
        if known is None or known.is_disputed or peer in (by, self.me) or known.status in ("dead", "left"):
            return []
        known.is_disputed = True
        return self._end(known, Rumour(peer, known.report.incarnation, "dead", self.me), now_s)

    def neighbours(self, newcomer: Report) -> list[PeerId]:
        """Live members all of whose addresses this one, speaking for itself, says are its own."""
        mine = frozenset(newcomer.addresses)
        return [
            peer
            for peer, known in sorted(self._records.items())
            if peer != newcomer.peer
            and known.status in ("alive", "suspect")
            and known.report.addresses
            and mine.issuperset(known.report.addresses)
        ]

    # -- clocks -------------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Change]:
        """Suspects whose time is up are dead; tombstones too old to matter are forgotten."""
        changes = []
        for peer in sorted(self._suspects):
            known = self._records[peer]
            suspicion = known.suspicion
            if suspicion is not None and now_s >= suspicion.ends_s(self._gossip):
                changes += self._end(known, Rumour(peer, suspicion.incarnation, "dead", self.me), now_s)
        if now_s >= self._purge_s:
            self._purge_s = now_s + TOMBSTONE_S / 24
            for peer, known in list(self._records.items()):
                if known.status in ("dead", "left") and now_s - known.since_s >= TOMBSTONE_S:
                    del self._records[peer]
        return changes

    def stood_still(self, lag_s: float, now_s: float) -> None:
        """My loop did: nobody's time ran meanwhile. Longer than the suspicion time, and every clock starts anew."""
        for peer in self._suspects:
            suspicion = self._records[peer].suspicion
            if suspicion is not None and lag_s > self._gossip.suspicion_s:
                suspicion.since_s, suspicion.is_sentenced = now_s, False
                suspicion.accusers = {self.me: None}
            elif suspicion is not None:
                suspicion.since_s = min(suspicion.since_s + lag_s, now_s)

    # -- what is known ------------------------------------------------------------------------------------------------

    def view(self, now_s: float) -> View:
        return View(self.me, tuple([peer_of(record) for record in self._live()]), now_s)

    def reports(self) -> list[tuple[Report, Status]]:
        """Reports of the live members, sorted by id."""
        return [(record.report, record.status) for record in self._live()]

    def report_of(self, peer: PeerId) -> Report | None:
        record = self._records.get(peer)
        return record.report if record else None

    def live(self) -> list[PeerId]:
        """Ids of the live members, sorted."""
        return [record.report.peer for record in self._live()]

    def dead(self) -> list[Peer]:
        """Members whose addresses are tried again now and then: a healed partition must find itself."""
        taken = frozenset(a for r in self._records.values() if r.status == "alive" for a in r.report.addresses)
        dead = [r for _, r in sorted(self._records.items()) if r.status == "dead"]
        return [peer_of(r) for r in dead if not r.report.addresses or not taken.issuperset(r.report.addresses)]

    # -- what is told -------------------------------------------------------------------------------------------------

    def tell(self, peer: PeerId, *, all_: bool = False) -> tuple[Rumour, ...]:
        """Rumours for this peer: what it must contradict, all tombstones if asked, then what is being passed on."""
        known = self._records.get(peer)
        own = [] if known is None or known.accusation is None or known.status == "left" else [known.accusation]
        if all_:
            own += self.gone()
        own = own[:RUMOURS_PER_CALL_MAX]
        own += self.rumours.take(peer, len(self._live()) + 1, RUMOURS_PER_CALL_MAX - len(own))
        return tuple(dict.fromkeys(own))

    def to_remind(self, peer: PeerId) -> Report | None:
        """What is known of a peer that speaks of itself as of an older life, for that peer."""
        known = self._records.get(peer)
        return known.report if known is not None and known.is_behind else None

    def to_warn(self) -> list[PeerId]:
        """Those accused since I was last asked whom I should tell at once, for they may live; sorted."""
        accused, self._to_warn = sorted(self._to_warn), {}
        return accused

    def accused(self) -> list[PeerId]:
        """Suspects that I accuse myself, sorted: it is on me to let them know."""
        own = [(p, self._records[p].suspicion) for p in sorted(self._suspects)]
        return [peer for peer, suspicion in own if suspicion is not None and self.me in suspicion.accusers]

    def gone(self) -> list[Rumour]:
        """Tombstones, the latest first: who left or died, and at which incarnation."""
        gone = [(-r.since_s, p, r.accusation) for p, r in self._records.items() if r.status in ("dead", "left")]
        return [rumour for _, _, rumour in sorted(gone, key=lambda item: item[:2]) if rumour is not None]

    # -- steps --------------------------------------------------------------------------------------------------------

    def _live(self) -> tuple[Record, ...]:
        if self._living is None:
            self._living = tuple(r for _, r in sorted(self._records.items()) if r.status in ("alive", "suspect"))
        return self._living

    def _suspect(self, known: Record, rumour: Rumour, now_s: float) -> list[Change] | None:
        """One more accuser. None when it is no news."""
        peer, suspicion = rumour.peer, known.suspicion
        is_first = suspicion is None
        if suspicion is None:
            expected = min(self._gossip.indirect_probes, len(self.live()) - 1)
            suspicion = Suspicion(rumour.incarnation, now_s, {rumour.accuser: None}, expected)
            known.suspicion, self._suspects[peer] = suspicion, None
        suspicion.incarnation = max(suspicion.incarnation, rumour.incarnation)
        is_worse = rumour.status == "dead" and not suspicion.is_sentenced
        if is_worse:
            suspicion.is_sentenced = True
            self._to_warn[peer] = None
        if not (suspicion.confirm(rumour.accuser) or is_first or is_worse):
            return None
        self._blame(known, rumour)
        self.rumours.add(rumour)
        return [self._become(known, "suspect", now_s)] if is_first else []

    def _blame(self, known: Record, rumour: Rumour) -> None:
        if known.accusation is None or rumour.incarnation >= known.accusation.incarnation:
            known.accusation = rumour

    def _end(self, known: Record, rumour: Rumour, now_s: float) -> list[Change]:
        """It is dead, or left."""
        self.rumours.drop(rumour.peer)
        self.rumours.add(rumour)
        known.accusation = rumour
        return [self._become(known, "left" if rumour.status == "left" else "dead", now_s)]

    def _revive(self, known: Record, now_s: float, incarnation: int = -1) -> list[Change]:
        """Its word, or a higher incarnation: it lives, except that who left returns with the latter only."""
        is_above = known.accusation is None or incarnation > known.accusation.incarnation
        if is_above:
            known.accusation = None
        if known.status == "alive" or (known.status == "left" and not is_above):
            return []
        self.rumours.drop(known.report.peer)
        return [self._become(known, "alive", now_s)]

    def _become(self, known: Record, status: Status, now_s: float) -> Change:
        before, known.status, known.since_s = known.status, status, now_s
        self._living = None
        if status != "suspect":
            known.suspicion = None
            self._suspects.pop(known.report.peer, None)
            self._to_warn.pop(known.report.peer, None)
        return Change(known.report.peer, known.report.name, status, before)

    def _forget_one(self) -> bool:
        gone = [(r.since_s, p) for p, r in self._records.items() if r.status in ("dead", "left")]
        if gone:
            del self._records[min(gone)[1]]
        return bool(gone)
