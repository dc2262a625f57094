"""Whom to talk to next, what to tell them, and what to fetch from whom. Pure decisions; `node` does the calling.

What is told: reports that changed since we last spoke, and, for open rounds in which our digests differ,
which contributions we hold, segment by segment. What is fetched: whatever somebody holds and we lack, the rarest first,
from several holders in parallel (PROTOCOL.md 7).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from zlib import crc32

from p2pfusion.config import HAVE_PER_CALL_MAX, INLINE_BYTES_MAX, PEERS_MAX, REPORTS_PER_CALL_MAX, SEGMENTS_MAX
from p2pfusion.swarm.ledger import Entry, Ledger
from p2pfusion.wire.messages import Contribution, ContributionId, Have, PeerId, Report, ShardReport

MANIFESTS_KNOWN_MAX = 512
"""Manifests remembered for each peer: several rounds of everybody; a forgotten one is sent twice."""
FAILURES_MAX = 3
"""Requests lost in a row before a holder is thought to be gone; on a bad link every tenth is lost."""
WANTED_MAX = 4096
"""Contributions known by id but not yet here; beyond it new ones wait for the next exchange."""
HOLDERS_MAX = 64
"""Holders remembered of one contribution: far more than are asked; who is gone or does not deliver makes room."""
DOUBTED_EVERY = 8
"""Every so many-th time a peer is told all I hold: should I be wrong about what it holds, it learns soon enough."""
SORTED_MAX = 256
"""Up to this many missing segments of a round are sorted at once; more are merged one by one as they are asked for."""
RANKED_STALE_MAX = 64
"""Segments that have come and are passed over, before the order of a contribution's segments is made anew."""
EVERYTHING = b"\xff" * (SEGMENTS_MAX // 8)
"""The bitmap of one who holds every segment, however many there are."""


class Spoken:
    """What each peer is known to have heard, so that only what changed is sent. Bounded by `PEERS_MAX`."""

    def __init__(self) -> None:
        self._versions: dict[PeerId, dict[PeerId, tuple[int, int]]] = {}
        self._manifests: dict[PeerId, dict[ContributionId, bool]] = {}
        """Who has which manifest, and whether it said or was sent all of its segments."""
        self._standing: dict[PeerId, tuple[int, int]] = {}
        self._asked: dict[PeerId, int] = {}
        self._relays: dict[PeerId, tuple[tuple[int, int], int]] = {}
        """Of each member the version last relayed, and in how many calls it was."""

    def news(self, peer: PeerId | None, reports: Sequence[Report], relays_max: int | None = None) -> tuple[Report, ...]:
        """Those reports this peer (None: a stranger) has not heard yet; at most `REPORTS_PER_CALL_MAX`.

        The first of `reports` is my own. Of the others, a version that `relays_max` calls carried already is left out,
        unless the peer has never been told of that member; None: nothing is.
        """
        known = self._versions.get(peer, {}) if peer is not None else {}
        own = reports[0] if reports else None
        fresh = [
            r
            for r in reports
            if known.get(r.peer, (-1, -1)) < (r.incarnation, r.beat)
            and r.peer != peer
            and (relays_max is None or r is own or r.peer not in known or self._relayed(r) < relays_max)
        ]
        if len(fresh) > REPORTS_PER_CALL_MAX:
            # The first is my own; then those whose turn is longest ago, for who is never told of seems to be dead.
            turn = {member: place for place, member in enumerate(known)}
            fresh[1:] = sorted(fresh[1:], key=lambda r: turn.get(r.peer, -1))
        chosen = tuple(fresh[:REPORTS_PER_CALL_MAX])
        for report in chosen:
            self._relays[report.peer] = (report.incarnation, report.beat), self._relayed(report) + 1
        while len(self._relays) > PEERS_MAX + 1:
            del self._relays[next(iter(self._relays))]
        return chosen

    def _relayed(self, report: Report) -> int:
        """How many calls carried this version."""
        version, count = self._relays.get(report.peer, ((-1, -1), 0))
        return count if version == (report.incarnation, report.beat) else 0

    def told(self, peer: PeerId, reports: Iterable[Report]) -> None:
        """The peer has these reports: they were sent to it and answered, or came from it."""
        if peer not in self._versions and len(self._versions) >= PEERS_MAX:
            del self._versions[min(self._versions)]
        known = self._versions.setdefault(peer, {})
        for report in reports:
            version, before = (report.incarnation, report.beat), known.pop(report.peer, None)
            known[report.peer] = version if before is None or version > before else before  # the last told comes last
        while len(known) > PEERS_MAX:
            del known[next(iter(known))]

    def knows(self, peer: PeerId, id_: ContributionId) -> bool:
        """Whether this peer has the manifest, because it came from there or was sent there."""
        return id_ in self._manifests.get(peer, {})

    def told_of(self, peer: PeerId, ids: Iterable[ContributionId], *, is_whole: bool = False) -> None:
        """The peer has these manifests (and all their segments); the newest `MANIFESTS_KNOWN_MAX` are remembered."""
        if peer not in self._manifests and len(self._manifests) >= PEERS_MAX:
            self.forget(min(self._manifests))
        known = self._manifests.setdefault(peer, {})
        for id_ in ids:
            if is_whole or id_ not in known:
                known[id_] = is_whole
        while len(known) > MANIFESTS_KNOWN_MAX:
            del known[next(iter(known))]

    def holds(self, peer: PeerId, report: Report | None) -> Mapping[ContributionId, bool]:
        """What the peer is thought to hold in whole (True), so that it need not hear that I do; nothing now and then.

        `report` is its newest. One that has come back, or whose tip fell (it took another chain), may hold it no more.
        """
        standing = (report.incarnation, min((s.tip_round for s in report.shards), default=0)) if report else (0, 0)
        before = self._standing.get(peer, standing)
        turn = self._asked.get(peer, 0) + 1
        known = self._manifests.get(peer, {})
        if standing[0] != before[0] or standing[1] < before[1]:
            known.update(dict.fromkeys(known, False))
        if peer in self._manifests:  # so that these tables are as bounded as that one
            self._standing[peer], self._asked[peer] = standing, turn
        return known if turn % DOUBTED_EVERY else {}

    def doubt(self, peer: PeerId) -> None:
        """Tell it every report again, and all I hold: an answer of mine may have been lost."""
        self._versions.pop(peer, None)
        known = self._manifests.get(peer, {})
        known.update(dict.fromkeys(known, False))

    def forget(self, peer: PeerId) -> None:
        """The peer is gone, and should it return it may have forgotten everything."""
        self._versions.pop(peer, None)
        self._manifests.pop(peer, None)
        self._standing.pop(peer, None)
        self._asked.pop(peer, None)


def haves(
    ledger: Ledger,
    theirs: ShardReport | None,
    extra: Collection[ContributionId] = (),
    held: Mapping[ContributionId, bool] | None = None,
    is_settled: Callable[[Entry], bool] = lambda _: True,
) -> tuple[Have, ...]:
    """What I hold, in part or whole, of the open rounds in which a peer's digest differs from mine.

    `held` says what the peer itself has in whole: that is left out, and so is what is not settled. `extra` is told in
    any case.
    """
    chosen = {id_: ledger.entries[id_] for id_ in extra if id_ in ledger.entries}
    digests = dict(theirs.digests) if theirs else {}
    for round_ in sorted(ledger.open):  # the lowest is sealed next: it must not be crowded out by those that fill up
        if theirs and (round_ <= theirs.tip_round or digests.get(round_) == ledger.digest(round_)):
            continue
        chosen.update((id_, entry) for id_, entry in ledger.open[round_].items() if is_settled(entry))
    known = held or {}
    told = [e for id_, e in chosen.items() if e.missing < len(e.segments) and not known.get(id_)]
    return tuple([entry.have() for entry in told[:HAVE_PER_CALL_MAX]])


def choose(peers: Sequence[PeerId], count: int, rng: random.Random) -> list[PeerId]:
    """`count` different peers at random (all when there are no more), in random order."""
    return rng.sample(list(peers), min(count, len(peers)))


Ranked = tuple[int, int, ContributionId, int, list[PeerId]]
"""A missing segment: how many hold it, its place among equals, contribution, index, who, sorted."""


class Wanted:
    """Who holds what I lack: an author that sent its manifest holds all, the others say so in `have`."""

    def __init__(self, salt: bytes = b"") -> None:
        """`salt`, such as my id, gives the order among equally rare segments: in each node another, so that those who
        ask one holder soon have something for each other, and not everybody asks the same author first. Empty: by id.
        """
        self._salt = crc32(salt) if salt else None
        self._holders: dict[ContributionId, dict[PeerId, bytes]] = {}
        self._failures: dict[tuple[ContributionId, PeerId], int] = {}
        self._ranked: dict[ContributionId, tuple[Entry, list[Ranked]]] = {}
        """The order in which to fetch what an entry lacked when it was made, until other holders are known."""

    def __contains__(self, id_: ContributionId) -> bool:
        """Whether anybody is known to hold it."""
        return bool(self._holders.get(id_))

    def offer(self, id_: ContributionId, peer: PeerId, bitmap: bytes | None) -> bool:
        """`peer` says it holds these segments (None: all). Whether that is news; of `HOLDERS_MAX` others it is none."""
        if id_ not in self._holders and len(self._holders) >= WANTED_MAX:
            return False
        holders, bits = self._holders.setdefault(id_, {}), EVERYTHING if bitmap is None else bitmap
        is_news = holders.get(peer) != bits and (peer in holders or len(holders) < HOLDERS_MAX)
        if is_news:
            holders[peer] = bits
            self._ranked.pop(id_, None)
        return is_news

    def failed(self, id_: ContributionId, peer: PeerId, *, is_final: bool) -> None:
        """`peer` did not deliver. It is asked no more, until it offers again, after `FAILURES_MAX` or a final no."""
        holders = self._holders.get(id_, {})
        if peer not in holders:
            return  # it came from somebody else meanwhile
        count = self._failures[id_, peer] = self._failures.get((id_, peer), 0) + 1
        if is_final or count >= FAILURES_MAX:
            del self._failures[id_, peer], holders[peer]
            self._ranked.pop(id_, None)
            if not holders:
                del self._holders[id_]

    def done(self, id_: ContributionId) -> None:
        """It is here, or not wanted any more."""
        self._ranked.pop(id_, None)
        for peer in self._holders.pop(id_, {}):
            self._failures.pop((id_, peer), None)

    def unknown(self, ledger: Ledger) -> list[tuple[ContributionId, list[PeerId]]]:
        """Ids without a manifest here, each with its holders, sorted."""
        lacking = sorted(id_ for id_, holders in self._holders.items() if id_ not in ledger.entries and holders)
        return [(id_, sorted(self._holders[id_])) for id_ in lacking]

    def segments(self, ledger: Ledger) -> Iterator[tuple[ContributionId, int, list[PeerId]]]:
        """Missing segments of known contributions with their holders: lowest round first, then rarest, then my order.

        Lazily, for a contribution may have thousands of segments and few of them are asked for at a time.
        """
        entries = [ledger.entries[id_] for id_ in self._holders if id_ in ledger.entries]
        by_round: dict[int, list[Entry]] = {}
        for entry in entries:
            if not entry.is_complete:
                by_round.setdefault(entry.manifest.round, []).append(entry)
        for _, group in sorted(by_round.items()):
            missing = map(self._missing, group)
            are_few = sum(entry.missing for entry in group) <= SORTED_MAX
            for _, _, id_, index, who in sorted(chain.from_iterable(missing)) if are_few else heapq.merge(*missing):
                yield id_, index, who

    def offered(self, ledger: Ledger) -> frozenset[ContributionId]:
        """The known contributions of which somebody holds a segment that is missing here."""
        known = [ledger.entries[id_] for id_ in self._holders if id_ in ledger.entries]
        return frozenset(entry.id for entry in known if any(True for _ in self._missing(entry)))

    def _missing(self, entry: Entry) -> Iterator[Ranked]:
        """The missing segments of one contribution that somebody holds, the rarest first."""
        known, ranked = self._ranked.get(entry.id, (None, []))
        if known is not entry or len(ranked) > RANKED_STALE_MAX + 2 * entry.missing:
            _, ranked = self._ranked[entry.id] = entry, self._rank(entry)
        return (item for item in ranked if entry.segments[item[3]] is None)

    def _rank(self, entry: Entry) -> list[Ranked]:
        holders = sorted(self._holders[entry.id].items())
        found: list[Ranked] = []
        for index, segment in enumerate(entry.segments):
            if segment is None and (who := [peer for peer, bits in holders if _has(bits, index)]):
                found.append((len(who), self._place(entry.id, index), entry.id, index, who))
        return sorted(found)

    def _place(self, id_: ContributionId, index: int) -> int:
        if self._salt is None:
            return 0
        # A checksum alone only flips bits: two salts would give one order, or its halves exchanged.
        return crc32(index.to_bytes(4, "little") + id_[:4], self._salt) * 0x9E3779B1 & 0xFFFFFFFF


def _has(bitmap: bytes, index: int) -> bool:
    return index // 8 < len(bitmap) and bool(bitmap[index // 8] >> (index % 8) & 1)


def whole(manifest: Contribution) -> bytes:
    """The bitmap of one who holds every segment of it."""
    full, rest = divmod(len(manifest.segments), 8)
    return b"\xff" * full + (bytes(((1 << rest) - 1,)) if rest else b"")


def is_small(manifest: Contribution) -> bool:
    """Whether a whole contribution may travel inside a gossip call."""
    return sum(segment.size for segment in manifest.segments) <= INLINE_BYTES_MAX
