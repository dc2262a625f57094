"""What has happened to the chains of a simulated swarm: every link ever sealed, every contribution ever published.

A record kept from outside, by looking at a node whenever it may have changed and comparing with the last look. Links
form a tree, genesis at its root: whoever forks starts a branch. Those who watch (`checkers`, `tally`) are told of what
is new and judge it; this module judges nothing. Its tables grow with the run and end with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from p2pfusion.node import Event, Node
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.watching import Swarm
from p2pfusion.wire.messages import ContributionId, Link, PeerId


@dataclass(slots=True, eq=False)
class Life:
    """One node from its start to its end, as last seen."""

    index: int
    node: Node
    peer: PeerId
    born_s: float
    tip: Link
    floor: int
    last: int
    incarnation: int
    died_s: float | None = None

    def __str__(self) -> str:
        return self.node.name


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """One contribution of work as its author published it; `patience_s` is how long the author would wait then."""

    id: ContributionId
    author: Life
    round: int
    at_s: float
    patience_s: float


class Judge(Protocol):
    """Who is told what is new."""

    def started(self, life: Life) -> None:
        """A node has begun, or come back."""
        ...

    def looked(self, life: Life) -> None:
        """It is about to be compared: `life` holds the last look, its node how it is now."""
        ...

    def published(self, work: Published) -> None:
        """It has published, to a round above any before."""
        ...

    def moved(self, life: Life, before: Link, after: Link) -> None:
        """Its tip has moved."""
        ...


class History:
    """An `Observer`; its judges are told in their order."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self.judges: list[Judge] = []
        self.lives: dict[int, Life] = {}
        """The last of each machine."""
        self.by_peer: dict[PeerId, Life] = {}
        """The last of each peer."""
        self.work: dict[ContributionId, Published] = {}
        self.links: dict[bytes, Link] = {}
        """By chain."""
        self.before: dict[bytes, bytes] = {}
        """Chain -> the one it was sealed on."""

    def look(self, index: int) -> None:
        """Compare a node with what it was."""
        node = self._swarm.nodes[index]
        ledger = node.state.ledger
        life = self.lives.get(index)
        if life is None or life.node is not node:
            if not node.state.run_id or not self._swarm.machines[index].is_running:
                return
            life = self._begin(index, node)
        for judge in self.judges:
            judge.looked(life)
        if ledger.last != life.last:
            life.last = ledger.last
            self._publish(life)
        if ledger.tip is not life.tip:
            before, life.tip = life.tip, ledger.tip
            self._add_links(node)
            for judge in self.judges:
                judge.moved(life, before, ledger.tip)
        life.floor, life.incarnation = ledger.floor, node.state.incarnation

    def befell(self, fault: Fault) -> None:
        """A crash ends a life."""
        life = self.lives.get(fault.index) if fault.kind == "crash" else None
        if life is not None and life.died_s is None and life.node.done is None:
            life.died_s = self._swarm.now_s

    def told(self, index: int, event: Event) -> None:
        """Events are for the judges."""

    def ended(self) -> None:
        """The record is complete."""

    def _begin(self, index: int, node: Node) -> Life:
        state = node.state
        life = Life(
            index=index,
            node=node,
            peer=state.me,
            born_s=self._swarm.now_s,
            tip=state.ledger.tip,
            floor=state.ledger.floor,
            last=state.ledger.last,
            incarnation=state.incarnation,
        )
        self._add_links(node)
        for judge in self.judges:
            judge.started(life)
        self.lives[index] = self.by_peer[state.me] = life
        return life

    def _publish(self, life: Life) -> None:
        """Find the work it published to its last round; a graft alone is none."""
        state = life.node.state
        for entry in state.ledger.entries.values():
            manifest = entry.manifest
            if (manifest.peer, manifest.round, manifest.kind) == (state.me, life.last, "work"):
                work = Published(entry.id, life, life.last, self._swarm.now_s, state.cadence.patience_s)
                for judge in self.judges:
                    judge.published(work)
                self.work[entry.id] = work

    def _add_links(self, node: Node) -> None:
        """Take its newest links into the tree, back to the first that is known there."""
        links = node.state.ledger.links
        for place in range(len(links) - 1, -1, -1):
            link = links[place]
            is_known = link.chain in self.links
            self.links[link.chain] = link
            if place:
                self.before[link.chain] = links[place - 1].chain
            if is_known and link.chain in self.before:
                break

    # -- the tree -----------------------------------------------------------------------------------------------------

    def path(self, chain: bytes | None) -> Iterator[Link]:
        """From this link back to genesis, or as far as it is known."""
        while chain is not None and chain in self.links:
            yield self.links[chain]
            chain = self.before.get(chain)

    def extends(self, after: Link, before: Link) -> bool:
        """Whether `before` lies on the way from genesis to `after`."""
        for link in self.path(after.chain):
            if link.round <= before.round:
                return link.chain == before.chain
        return False

    def forks(self) -> int:
        """Links sealed beside another on the same chain."""
        return len(self.before) - len(frozenset(self.before.values()))
