"""Whom to talk to next, what to tell them, and what to fetch from whom. Pure decisions; `node` does the calling.

What is told: reports that changed since we last spoke, who left, and, for open rounds in which our digests differ,
which contributions we hold, segment by segment. What is fetched: whatever somebody holds and we lack, the rarest first,
from several holders in parallel (PROTOCOL.md 7).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from p2pfusion.config import HAVE_PER_CALL_MAX, PEERS_MAX, REPORTS_PER_CALL_MAX, RUMOURS_PER_CALL_MAX
from p2pfusion.swarm.ledger import Ledger
from p2pfusion.swarm.membership import Membership
from p2pfusion.wire.messages import Contribution, ContributionId, Have, PeerId, Report, Rumour, ShardReport

MANIFESTS_KNOWN_MAX = 512
"""Manifests remembered for each peer: several rounds of everybody; a forgotten one is sent twice."""
FAILURES_MAX = 3
"""Requests lost in a row before a holder is thought to be gone; on a bad link every tenth is lost."""
WANTED_MAX = 4096
"""Contributions known by id but not yet here; beyond it new ones wait for the next exchange."""


class Spoken:
    """What each peer is known to have heard, so that only what changed is sent. Bounded by `PEERS_MAX`."""

    def __init__(self) -> None:
        self._versions: dict[PeerId, dict[PeerId, tuple[int, int]]] = {}
        self._manifests: dict[PeerId, dict[ContributionId, None]] = {}

    def news(self, peer: PeerId | None, reports: Iterable[Report]) -> tuple[Report, ...]:
        """Those reports this peer (None: a stranger) has not heard yet; at most `REPORTS_PER_CALL_MAX`."""
        known = self._versions.get(peer, {}) if peer is not None else {}
        fresh = [r for r in reports if known.get(r.peer, (-1, -1)) < (r.incarnation, r.beat) and r.peer != peer]
        if len(fresh) > REPORTS_PER_CALL_MAX:
            # The first is my own; then those whose turn is longest ago, for who is never told of seems to be dead.
            turn = {member: place for place, member in enumerate(known)}
            fresh[1:] = sorted(fresh[1:], key=lambda r: turn.get(r.peer, -1))
        return tuple(fresh[:REPORTS_PER_CALL_MAX])

    def told(self, peer: PeerId, reports: Iterable[Report]) -> None:
        """The peer has these reports: they were sent to it and answered, or came from it."""
        if peer not in self._versions and len(self._versions) >= PEERS_MAX:
            del self._versions[min(self._versions)]
        known = self._versions.setdefault(peer, {})
        for report in reports:
            version = max(known.pop(report.peer, (-1, -1)), (report.incarnation, report.beat))
            known[report.peer] = version  # the last one told comes last
        while len(known) > PEERS_MAX:
            del known[next(iter(known))]

    def knows(self, peer: PeerId, id_: ContributionId) -> bool:
        """Whether this peer has the manifest, because it came from there or was sent there."""
        return id_ in self._manifests.get(peer, {})

    def told_of(self, peer: PeerId, ids: Iterable[ContributionId]) -> None:
        """The peer has these manifests; the newest `MANIFESTS_KNOWN_MAX` are remembered."""
        if peer not in self._manifests and len(self._manifests) >= PEERS_MAX:
            del self._manifests[min(self._manifests)]
        known = self._manifests.setdefault(peer, {})
        known.update(dict.fromkeys(ids))
        while len(known) > MANIFESTS_KNOWN_MAX:
            del known[next(iter(known))]

    def forget(self, peer: PeerId) -> None:
        """The peer is gone, and should it return it may have forgotten everything."""
        self._versions.pop(peer, None)
        self._manifests.pop(peer, None)


def haves(ledger: Ledger, theirs: ShardReport | None, extra: Collection[ContributionId] = ()) -> tuple[Have, ...]:
    """What I hold, in part or whole, of the open rounds in which a peer's digest differs from mine."""
    chosen = {id_: ledger.entries[id_] for id_ in extra if id_ in ledger.entries}
    digests = dict(theirs.digests) if theirs else {}
    for round_ in sorted(ledger.open):  # the lowest is sealed next: it must not be crowded out by those that fill up
        if theirs and (round_ <= theirs.tip_round or digests.get(round_) == ledger.digest(round_)):
            continue
        chosen.update(ledger.open[round_])
    held = [Have(id_, entry.bitmap()) for id_, entry in chosen.items() if entry.missing < len(entry.segments)]
    return tuple(held[:HAVE_PER_CALL_MAX])


def rumours(membership: Membership) -> tuple[Rumour, ...]:
    return tuple(membership.gone()[-RUMOURS_PER_CALL_MAX:])


def choose(peers: Sequence[PeerId], count: int, rng: random.Random) -> list[PeerId]:
    """`count` different peers at random (all when there are no more), in random order."""
    return rng.sample(list(peers), min(count, len(peers)))


class Wanted:
    """Who holds what I lack: an author that sent its manifest holds all, the others say so in `have`."""

    def __init__(self) -> None:
        self._holders: dict[ContributionId, dict[PeerId, bytes]] = {}
        self._failures: dict[tuple[ContributionId, PeerId], int] = {}

    def __contains__(self, id_: ContributionId) -> bool:
        """Whether anybody is known to hold it."""
        return bool(self._holders.get(id_))

    def offer(self, id_: ContributionId, peer: PeerId, bitmap: bytes | None) -> None:
        """`peer` says it holds these segments (None: all)."""
        if id_ in self._holders or len(self._holders) < WANTED_MAX:
            self._holders.setdefault(id_, {})[peer] = bitmap if bitmap is not None else b"\xff" * 8192

    def failed(self, id_: ContributionId, peer: PeerId, *, is_final: bool) -> None:
        """`peer` did not deliver. It is asked no more, until it offers again, after `FAILURES_MAX` or a final no."""
        holders = self._holders.get(id_, {})
        if peer not in holders:
            return  # it came from somebody else meanwhile
        count = self._failures[id_, peer] = self._failures.get((id_, peer), 0) + 1
        if is_final or count >= FAILURES_MAX:
            del self._failures[id_, peer], holders[peer]
            if not holders:
                del self._holders[id_]

    def done(self, id_: ContributionId) -> None:
        """It is here, or not wanted any more."""
        for peer in self._holders.pop(id_, {}):
            self._failures.pop((id_, peer), None)

    def unknown(self, ledger: Ledger) -> list[tuple[ContributionId, list[PeerId]]]:
        """Ids without a manifest here, each with its holders, sorted."""
        return [(i, sorted(h)) for i, h in sorted(self._holders.items()) if i not in ledger.entries and h]

    def segments(self, ledger: Ledger) -> list[tuple[ContributionId, int, list[PeerId]]]:
        """Missing segments of known contributions with their holders: lowest round first, then rarest, then by id."""
        missing = []
        for id_, holders in self._holders.items():
            entry = ledger.entries.get(id_)
            if entry is None or entry.is_complete:
                continue
            for index, segment in enumerate(entry.segments):
                if segment is None and (who := [p for p in sorted(holders) if _has(holders[p], index)]):
                    missing.append((entry.manifest.round, len(who), id_, index, who))
        return [(id_, index, who) for _, _, id_, index, who in sorted(missing)]


def _has(bitmap: bytes, index: int) -> bool:
    return index // 8 < len(bitmap) and bool(bitmap[index // 8] >> (index % 8) & 1)


def is_small(manifest: Contribution, bytes_max: int) -> bool:
    """Whether a whole contribution fits inside a gossip call."""
    return sum(segment.size for segment in manifest.segments) <= bytes_max
