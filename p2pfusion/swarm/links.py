"""The chain: sealed rounds as links, each the hash of the one before and its ids, and the grafts they counted.

Equal chains mean equal bits, so everything about forks is decided here by comparing hashes. It knows no open rounds,
no payloads beyond the entries it is handed, and nobody's opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from p2pfusion.config import LINKS_KEPT_MAX
from p2pfusion.swarm.entries import Entry
from p2pfusion.swarm.grafts import Grafted, Grafts, covered_by
from p2pfusion.wire.codec import next_chain
from p2pfusion.wire.messages import COUNT_MAX, Link


class Links:
    """Consecutive links, the last `LINKS_KEPT_MAX` of them, beginning at genesis or at a snapshot."""

    def __init__(self, genesis_chain: bytes) -> None:
        self.links: list[Link] = [Link(round=0, chain=genesis_chain, weight=0, ids=())]
        self.grafts = Grafts()

    @property
    def tip(self) -> Link:
        """The newest sealed round; genesis at first."""
        return self.links[-1]

    def is_beaten_by(self, weight: int, chain: bytes) -> bool:
        """Whether a tip of that weight wins over mine; of equal ones the larger chain (PROTOCOL.md 5)."""
        return (weight, chain) > (self.tip.weight, self.tip.chain)

    def link_at(self, round_: int) -> Link | None:
        """The link of a sealed round, or None when it is unknown or no longer kept."""
        index = round_ - self.links[0].round
        return self.links[index] if 0 <= index < len(self.links) else None

    def has_chain(self, round_: int, chain: bytes) -> bool:
        link = self.link_at(round_)
        return link is not None and link.chain == chain

    def is_mine(self, chain: bytes) -> bool:
        """Whether any link I keep has this chain."""
        return any(link.chain == chain for link in self.links)

    def links_after(self, round_: int, count: int) -> tuple[Link, ...]:
        """Up to `count` links that follow `round_`, from the oldest kept on."""
        start = max(0, round_ + 1 - self.links[0].round)
        return tuple(self.links[start : start + count])

    def fork_round(self, links: Sequence[Link]) -> int | None:
        """The newest round at which another chain, given as consecutive links, agrees with mine.

        None when they have nothing in common that is still kept. The first link may also directly extend one of mine.
        """
        for link in reversed(links):
            if self.has_chain(link.round, link.chain):
                return link.round
        if links and (before := self.link_at(links[0].round - 1)) is not None:
            return before.round if next_chain(before.chain, links[0].ids) == links[0].chain else None
        return None

    def next_link(self, entries: Collection[Entry]) -> Link:
        """The link that sealing the next round with `entries` would append."""
        return _link(self.tip, self.grafts, self.is_mine, entries)

    def replay(self, fork_round: int, rounds: Sequence[Collection[Entry]]) -> list[Link]:
        """The links that sealing these rounds on top of `fork_round` would append: what a switch must find true."""
        kept = self.links[: fork_round - self.links[0].round + 1]
        links: list[Link] = []
        grafts = self.grafts.until(fork_round)
        chains = {link.chain for link in kept}
        for entries in rounds:
            links.append(_link(links[-1] if links else kept[-1], grafts, chains.__contains__, entries))
            chains.add(links[-1].chain)
            _count(grafts, links[-1], entries)
        return links

    def _append(self, link: Link, entries: Iterable[Entry]) -> None:
        _count(self.grafts, link, entries)
        self.links.append(link)
        if len(self.links) > LINKS_KEPT_MAX:
            del self.links[0]

    def _cut(self, fork_round: int) -> list[Link]:
        """Take away the links after `fork_round`, and return them."""
        place = fork_round - self.links[0].round + 1
        lost = self.links[place:]
        del self.links[place:]
        self.grafts = self.grafts.until(fork_round)
        return lost


def _link(before: Link, grafts: Grafts, is_mine: Callable[[bytes], bool], entries: Collection[Entry]) -> Link:
    ids = tuple(sorted(entry.id for entry in entries))
    graft = grafts.choose(entries, is_mine)
    weight = before.weight + sum(entry.manifest.weight for entry in entries if entry.manifest.graft is None)
    if graft is not None and graft.manifest.graft is not None:
        weight += graft.manifest.graft.weight_lost
    return Link(
        round=before.round + 1,
        chain=next_chain(before.chain, ids),
        weight=min(weight, COUNT_MAX),
        ids=ids,
        graft=graft.id if graft is not None else None,
    )


def _count(grafts: Grafts, link: Link, entries: Iterable[Entry]) -> None:
    for entry in entries:
        if entry.id == link.graft and entry.manifest.graft is not None:
            grafts.append(Grafted(round=link.round, key=entry.manifest.graft.key, ids=frozenset(covered_by(entry))))
