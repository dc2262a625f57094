"""Getting what other members' links count: their ids are wanted, their payloads awaited, nothing is believed.

It changes what is fetched and nothing else; `chain` and `switching` decide what to do with what came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from p2pfusion.errors import WireError
from p2pfusion.node.pull import Pull
from p2pfusion.node.state import State
from p2pfusion.swarm.ledger import Entry, in_fold_order
from p2pfusion.wire.messages import Link, PeerId

GATHER_S = 30.0
"""Longest wait for everything one link counts: the largest segment at the slowest rate, and then some."""


class Gone(WireError):
    """What a link counts is not to be had any more."""


class Gathering:
    """Links and contributions of others."""

    def __init__(self, state: State, pull: Pull) -> None:
        self._state = state
        self._pull = pull

    def holders(self, peer: PeerId) -> list[PeerId]:
        """This member, then the others on the same chain."""
        reports = [report for report, _ in self._state.membership.reports() if report.shards]
        chains = [report.shards[0].tip_chain for report in reports if report.peer == peer]
        return [peer, *(r.peer for r in reports if r.peer != peer and r.shards[0].tip_chain in chains)]

    async def links(self, peer: PeerId, after: int, until: int) -> tuple[Link, ...]:
        """A member's links after a round: beyond the end of my run only those that may be grafts alone."""
        links = await self._pull.links(self.holders(peer), after, until)
        limit = self._state.ledger.limit
        beyond = [i for i, link in enumerate(links) if limit is not None and link.round > limit and not link.graft]
        return tuple(links[: beyond[0]] if beyond else links)

    def want(self, peer: PeerId, link: Link) -> None:
        """Have what a link counts fetched, from the peer that told of it at least."""
        state, entries = self._state, self._state.ledger.entries
        for id_ in link.ids:
            if id_ not in entries or not entries[id_].is_complete:
                state.needed[id_] = None
                state.wanted.offer(id_, peer, None)
        state.bells["fetch"].ring()

    def unwant(self, links: Sequence[Link]) -> None:
        for link in links:
            for id_ in link.ids:
                self._state.needed.pop(id_, None)

    async def gather(self, peer: PeerId, link: Link) -> tuple[Entry, ...]:
        """Everything a link counts, complete, in fold order.

        Raises `RemoteError` when it does not come in time, or when nobody honest could have sealed it.
        """
        state = self._state
        entries, limit = state.ledger.entries, state.ledger.limit
        self.want(peer, link)
        try:
            async with asyncio.timeout(GATHER_S):
                while not state.ledger.holds(link):
                    await state.bells["chain"].wait(state.config.gossip.gossip_interval_s)
                    for id_ in link.ids:
                        if id_ not in state.wanted and not (id_ in entries and entries[id_].is_complete):
                            raise Gone(f"round {link.round}: nobody has {id_.hex()[:8]}")
        except TimeoutError:
            raise Gone(f"round {link.round}: its contributions did not come") from None
        finally:
            self.unwant([link])
        found = in_fold_order(entries[id_] for id_ in link.ids)
        slots = [(entry.manifest.peer, entry.manifest.kind) for entry in found]
        is_beyond = limit is not None and link.round > limit
        if (
            any(entry.manifest.round != link.round for entry in found)
            or any(one == other for one, other in pairwise(slots))
            or (is_beyond and any(entry.manifest.kind == "work" for entry in found))
        ):
            raise WireError(f"round {link.round}: a link that nobody honest could have sealed, or beyond my end")
        return found
