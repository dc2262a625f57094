"""What must hold at any moment of a simulated run; when it does not, `InvariantViolation` says who, where and when.

- Equal chains are equal models, bit for bit, and a node's hash is that of its model.
- A node's floor never falls; nobody publishes below its floor, nor twice to a round, in all its lives.
- No contribution is counted twice on a chain, neither by two links nor by a link after a graft that stands for it.
- A tip leaves its chain only by a switch that is said aloud; what the chain left had sealed is in the end in the
  winner's, among what a counted graft stands for, or with its living author, who sends it again as residual.
- A peer's incarnation rises with every start and never falls.
- Tables stay within their limits.
- Nobody holds a node for dead that is up, awake and within reach.

The checkers stand outside, read and never write. Whether a run was good, not only right, the tally says.
"""

from __future__ import annotations

from collections import Counter

from p2pfusion.config import GRAFTS_KEPT_MAX, LINKS_KEPT_MAX, OPEN_ROUNDS_MAX, PEERS_MAX
from p2pfusion.errors import InvariantViolation
from p2pfusion.node import Event, PeerEvent, WarningEvent
from p2pfusion.node.snapshots import hash_of
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.history import History, Life, Published
from p2pfusion.sim.watching import Swarm
from p2pfusion.swarm.grafts import LOSSES_MAX
from p2pfusion.wire.messages import ContributionId, Link, PeerId

CALM_SUSPICIONS = 2
"""Who has been within reach of everybody for this many suspicion times may not be held for dead."""


class Checkers:
    """An `Observer` and a `Judge` of the history."""

    def __init__(self, swarm: Swarm, history: History) -> None:
        self._swarm = swarm
        self._history = history
        self._bits: dict[bytes, bytes] = {}
        self._published: dict[tuple[PeerId, int], ContributionId] = {}
        self._counted_in: dict[ContributionId, list[bytes]] = {}
        self._incarnations: dict[PeerId, int] = {}
        self._checked: dict[bytes, None] = {}
        self._left: dict[Life, list[Link]] = {}
        """Links that a node's chain left behind."""
        self._switches: Counter[Life] = Counter()
        self._said: Counter[Life] = Counter()
        history.judges.append(self)

    def _fail(self, life: Life, what: str) -> None:
        round_ = life.node.state.ledger.tip.round
        raise InvariantViolation(f"at {self._swarm.now_s:.3f} virtual s, {life.node.name}, tip {round_}: {what}")

    # -- as an observer -----------------------------------------------------------------------------------------------

    def look(self, index: int) -> None:
        """The history looks."""

    def befell(self, fault: Fault) -> None:
        """Faults are nobody's fault."""

    def told(self, index: int, event: Event) -> None:
        """Count what is said aloud; weigh a death."""
        life = self._history.lives.get(index)
        if life is None:
            return
        if isinstance(event, WarningEvent) and event.code == "switched":
            self._said[life] += 1
        if isinstance(event, PeerEvent) and event.state == "dead" and is_false_death(self._swarm, self._history, event):
            self._fail(life, f"holds {event.name} for dead, which is up and within reach of everybody")

    def ended(self) -> None:
        """What only the end shows: every switch was said, and nothing that was sealed is lost."""
        for life in self._history.lives.values():
            if life.node.done is None:
                continue
            if self._switches[life] > self._said[life]:
                self._fail(life, f"left its chain {self._switches[life]} times and said so {self._said[life]} times")
            self._check_covers(life)
            self._check_nothing_lost(life)

    # -- as a judge ---------------------------------------------------------------------------------------------------

    def started(self, life: Life) -> None:
        """Back with a higher incarnation, if it is the same peer."""
        before = self._incarnations.get(life.peer, -1)
        if life.incarnation <= before:
            self._fail(life, f"starts with incarnation {life.incarnation} after {before}")
        self._incarnations[life.peer] = life.incarnation

    def looked(self, life: Life) -> None:
        """Nothing of what only rises has fallen."""
        state = life.node.state
        if (floor := state.ledger.floor) < life.floor:
            self._fail(life, f"its floor fell from {life.floor} to {floor}")
        if state.incarnation != life.incarnation:
            if state.incarnation < life.incarnation:
                self._fail(life, f"its incarnation fell from {life.incarnation} to {state.incarnation}")
            self._incarnations[life.peer] = state.incarnation

    def published(self, work: Published) -> None:
        """Not below the floor, and once."""
        if work.round < work.author.floor:
            self._fail(work.author, f"published to round {work.round}, below its floor {work.author.floor}")
        if self._published.setdefault((work.author.peer, work.round), work.id) != work.id:
            self._fail(work.author, f"published twice to round {work.round}")

    def moved(self, life: Life, before: Link, after: Link) -> None:
        """The new chain is sound, its bits are everybody's, and if it is another chain, remember what was left."""
        for link in self._history.path(after.chain):
            if link.chain in self._checked:
                break
            self._check_link(life, link)
        if not self._history.extends(after, before):
            left = [link for link in self._history.path(before.chain) if not self._history.extends(after, link)]
            self._switches[life] += any(link.ids for link in left)
            self._left.setdefault(life, []).extend(left)
        self._check_bits(life, after)
        self._check_tables(life)

    # -- the single rules ---------------------------------------------------------------------------------------------

    def _check_link(self, life: Life, link: Link) -> None:
        self._checked[link.chain] = None
        for id_ in link.ids:
            others = self._counted_in.setdefault(id_, [])
            if any(self._history.extends(link, self._history.links[chain]) for chain in others):
                self._fail(life, f"its chain counts {id_.hex()[:8]} in round {link.round} for the second time")
            others.append(link.chain)

    def _check_bits(self, life: Life, tip: Link) -> None:
        state = life.node.state
        bits = hash_of(state.replica.sealed)
        if bits != state.model_hash:
            self._fail(life, "reports another model than it has")
        if self._bits.setdefault(tip.chain, bits) != bits:
            self._fail(life, f"holds another model than others on chain {tip.chain.hex()[:8]} of round {tip.round}")

    def _check_tables(self, life: Life) -> None:
        ledger, membership = life.node.state.ledger, life.node.state.membership
        for name, size, most in (
            ("links", len(ledger.links), LINKS_KEPT_MAX),
            ("open rounds", len(ledger.open), OPEN_ROUNDS_MAX),
            ("grafts", len(ledger.grafts.counted), GRAFTS_KEPT_MAX),
            ("losses", len(ledger.losses), LOSSES_MAX),
            ("members", len(membership.reports()) + len(membership.dead()), PEERS_MAX),
        ):
            if size > most:
                self._fail(life, f"holds {size} {name}, the limit is {most}")

    def _check_covers(self, life: Life) -> None:
        """What a graft stands for is in no link after it; before it, both sides may have sealed the same."""
        grafts = life.node.state.ledger.grafts.counted
        for link in self._history.path(life.tip.chain):
            covered = [grafted.ids for grafted in grafts if grafted.round < link.round]
            for id_ in link.ids:
                if any(id_ in ids for ids in covered):
                    self._fail(life, f"round {link.round} counts {id_.hex()[:8]}, for which a graft stands already")

    def _check_nothing_lost(self, life: Life) -> None:
        """What it had sealed and left behind counts, or its author still has it."""
        left = self._left.get(life)
        if not left:
            return
        counted = counted_on(self._history, life)
        for link in left:
            for id_ in link.ids:
                work = self._history.work.get(id_)
                if id_ not in counted and work is not None and not is_alive(self._history, work):
                    self._fail(life, f"{id_.hex()[:8]} of {work.author} was sealed in round {link.round} and is lost")


def counted_on(history: History, life: Life) -> frozenset[ContributionId]:
    """All contributions that count on a node's chain: in its links, or among what its grafts stand for."""
    sealed = (id_ for link in history.path(life.tip.chain) for id_ in link.ids)
    return frozenset(sealed) | life.node.state.ledger.grafts.ids()


def is_alive(history: History, work: Published) -> bool:
    """Whether the author of that work, as the same peer, still runs or reached the end of the run."""
    author = history.by_peer[work.author.peer]
    return author.died_s is None


def is_false_death(swarm: Swarm, history: History, event: PeerEvent) -> bool:
    """Whether one who is told to be dead has been within everybody's reach for long enough."""
    life = history.by_peer.get(bytes.fromhex(event.id))
    if life is None or life.died_s is not None or life.node.done is not None:
        return False
    machine = swarm.machines[life.index]
    is_it = machine.node is life.node
    return is_it and machine.calm_s(swarm.now_s) >= CALM_SUSPICIONS * swarm.scenario.gossip.suspicion_s
