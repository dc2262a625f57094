"""Watches a simulated swarm at every packet and event, and fails at the first moment something is wrong.

What must hold at any time (PROTOCOL.md 3 to 5): a node's floor never falls; its tip leaves its chain only by a switch,
and every switch is said aloud; no contribution is counted twice on a chain; equal chains are equal bits, and equal bits
equal chains unless what lies between are rounds nobody published to.
"""

from __future__ import annotations

from collections import Counter

from p2pfusion.node import Node
from p2pfusion.node.snapshots import hash_of
from p2pfusion.sim.world import Result, World
from p2pfusion.wire.messages import ContributionId, Link, PeerId


class Checker:
    """A `sim.world.Watch`; call `finish` with the result."""

    def __init__(self) -> None:
        self.peers: dict[int, PeerId] = {}
        self.links: dict[int, list[Link]] = {}
        """Each node's chain, from its first link on."""
        self.switches: Counter[int] = Counter()
        self.authors: dict[ContributionId, tuple[PeerId, int]] = {}
        """Who published what to which round."""
        self._last: dict[int, int] = {}
        self._floors: dict[int, int] = {}
        self._bits: dict[bytes, bytes] = {}
        self._stands: dict[bytes, Link] = {}

    def __call__(self, world: World) -> None:
        for index, node in world.nodes.items():
            if node.state.run_id:
                self._look(index, node)

    def _look(self, index: int, node: Node) -> None:
        ledger = node.state.ledger
        floor = ledger.floor
        assert floor >= self._floors.get(index, 0), f"the floor of node {index} fell"
        self._floors[index] = floor
        if ledger.last != self._last.get(index, 0):
            self._last[index] = ledger.last
            self._publish(node)
        known = self.links.get(index)
        if known is None or known[-1] is not ledger.tip:
            self.peers[index] = node.state.me
            self._move(index, node, known or [ledger.links[0]])

    def _publish(self, node: Node) -> None:
        """The node has published: to its last round, and once."""
        me, ledger = node.state.me, node.state.ledger
        mine = [e.id for e in ledger.entries.values() if (e.manifest.peer, e.manifest.round) == (me, ledger.last)]
        assert len(mine) == 1, f"{node} published {len(mine)} times to round {ledger.last}"
        self.authors[mine[0]] = (me, ledger.last)

    def _move(self, index: int, node: Node, before: list[Link]) -> None:
        """The tip of a node is another than last time."""
        ledger, old = node.state.ledger, before[-1]
        if old.round > 0 and not ledger.has_chain(old.round, old.chain):
            self.switches[index] += 1
        ids = [id_ for link in ledger.links for id_ in link.ids]
        assert len(ids) == len(frozenset(ids)), f"node {index} counts a contribution twice"
        self.links[index] = list(ledger.links)
        bits = hash_of(node.state.replica.sealed)
        assert bits == node.state.model_hash, f"node {index} reports another model than it has"
        assert self._bits.setdefault(ledger.tip.chain, bits) == bits, f"one chain, two models: node {index}, {ledger}"
        stands = self._stands.setdefault(bits, ledger.tip)
        assert stands.chain == ledger.tip.chain or stands.weight == ledger.tip.weight, (
            f"two chains, one model: node {index}"
        )

    # -- at the end ---------------------------------------------------------------------------------------------------

    def finish(self, result: Result) -> None:
        """One model and one chain on all who reached the end, every switch was said, nobody else warned."""
        assert len(result.model_hashes) == len(result.chains) == 1, [repr(o.done) for o in result.outcomes]
        for index, outcome in enumerate(result.outcomes):
            assert outcome.warned("switched") == self.switches[index], (outcome.name, outcome.warnings)
            assert len(outcome.warnings) == self.switches[index], (outcome.name, outcome.warnings)
            if outcome.done is not None:
                assert outcome.done.chain == self.links[index][-1].chain.hex()
                assert outcome.done.status == "ok"

    def sealed_rounds(self, index: int, of: int) -> list[int]:
        """The rounds of node `of`'s contributions that the final chain of node `index` counts, ascending."""
        found = []
        for link in self.links[index]:
            rounds = [round_ for peer, round_ in map(self.authors.__getitem__, link.ids) if peer == self.peers[of]]
            assert rounds in ([], [link.round])
            found += rounds
        return found
