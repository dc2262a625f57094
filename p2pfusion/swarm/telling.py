"""Whom to call with what is new, and when, in a swarm so small that everybody tells everybody itself.

Whoever publishes owes each member its contribution; whoever changes a line that others wait for (tip, floor, role, a
full round) owes each member that line. A call carries all that is owed to its peer, and its answer carries all that is
owed back. At most one call to each peer is under way; what comes meanwhile shares the next one. A peer that does not
answer is tried again, soon and then at every beat, as long as it is no dead one: so nobody need relay for others, and a
short cut heals at once. What gets lost all the same is found by comparing digests (`swarm.gossip.haves`).

Of two that publish at about one moment one call is enough: the one that is `first` of the pair calls at once, the other
only when it was not called within the time of coalescing.

A step machine: moments and outcomes come in, peers to call go out. It knows no network, no ledger and no reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from p2pfusion.config import FRESH_PER_CALL_MAX, GossipConfig
from p2pfusion.wire.messages import ContributionId, PeerId

ANSWER_TIMES = 4.0
"""So many times the usual time of an answer is waited for one: on busy computers everything takes longer."""
NEW_SHARE = 0.125
"""Weight of the newest answer in the usual time (as TCP weighs round trips, RFC 6298)."""
OWED_MAX = 256
"""Contributions owed to one peer; the oldest go first, `have` brings what was missed."""


@dataclass(slots=True)
class _Debt:
    """What one peer is still to be told, and how calling it went."""

    fresh: dict[ContributionId, None] = field(default_factory=dict)
    told: object = None
    """The last line of mine it is known to have."""
    hinted: object = None
    """The last line of mine that an answer brought, if it arrived."""
    hinted_s: float = -inf
    since_s: float | None = None
    """Since when there is something to tell it."""
    call_s: float = -inf
    """When it was called last."""
    silent: int = 0
    """Calls since then, or before, that it has not answered, yet or at all."""


class Telling:
    """What is owed to each of at most `direct_members_max` peers, for only so many are given to `owe` and `due`.

    Those two alone begin to remember a peer: what strangers say or are told leaves nothing behind.
    """

    def __init__(self, me: PeerId, gossip: GossipConfig) -> None:
        self._me = me
        self._gossip = gossip
        self._debts: dict[PeerId, _Debt] = {}
        self._answer_s = 0.0

    @property
    def patience_s(self) -> float:
        """How long an answer is waited for before what it would confirm is told again."""
        return max(self._gossip.retry_s, ANSWER_TIMES * self._answer_s)

    def __len__(self) -> int:
        """Peers that anything is remembered of."""
        return len(self._debts)

    def owe(self, id_: ContributionId, peers: Sequence[PeerId]) -> None:
        """All these are to be told of my contribution."""
        for peer in peers:
            fresh = self._debt(peer, peers).fresh
            fresh[id_] = None
            while len(fresh) > OWED_MAX:
                del fresh[next(iter(fresh))]

    def owed(self, peer: PeerId) -> tuple[ContributionId, ...]:
        """What this peer is still to be told of, at most as many as one call carries."""
        debt = self._debts.get(peer)
        return () if debt is None else tuple(debt.fresh)[:FRESH_PER_CALL_MAX]

    def owed_back(self, peer: PeerId, now_s: float) -> tuple[ContributionId, ...]:
        """The same for an answer: nothing while a call of mine brings it, for two that call each other at once."""
        debt = self._debts.get(peer)
        if debt is None or (debt.silent and now_s < debt.call_s + self.patience_s):
            return ()
        return self.owed(peer)

    def keep(self, peers: Sequence[PeerId], is_open: Callable[[ContributionId], bool]) -> None:
        """Forget all peers but these, and what is not open any more: it comes with its link."""
        self._debts = {peer: self._debts[peer] for peer in peers if peer in self._debts}
        for debt in self._debts.values():
            for id_ in [id_ for id_ in debt.fresh if not is_open(id_)]:
                del debt.fresh[id_]

    def due(self, peers: Sequence[PeerId], line: object, now_s: float) -> tuple[list[PeerId], float]:
        """Whom to call now, and when to look again if nothing changes. `line` is what others wait to hear of me."""
        found, next_s = [], inf
        for peer in peers:
            debt = self._debt(peer, peers)
            if not debt.fresh and debt.told == line:
                debt.since_s = None
                continue
            due_s = max(self._line_due_s(debt, peer, line, now_s), self._again_s(debt))
            if due_s <= now_s:
                found.append(peer)
            else:
                next_s = min(next_s, due_s)
        return found, next_s

    def calling(self, peer: PeerId, now_s: float) -> None:
        """A call to it begins; until it is answered or very late there is no other."""
        debt = self._debts.get(peer)
        if debt is not None:
            debt.call_s = now_s
            debt.silent += 1

    def called(self, peer: PeerId) -> None:
        """It lives, for it called me: if it did not answer, that is no reason to wait for longer."""
        debt = self._debts.get(peer)
        if debt is not None:
            debt.silent = min(debt.silent, 1)

    def answered(self, peer: PeerId, took_s: float) -> None:
        """A call of mine to it ended well after so long."""
        self._answer_s += NEW_SHARE * (took_s - self._answer_s)
        debt = self._debts.get(peer)
        if debt is not None:
            debt.silent = 0

    def told(self, peer: PeerId, fresh: Sequence[ContributionId], line: object) -> None:
        """It has these, and this line of mine."""
        debt = self._debts.get(peer)
        if debt is None:
            return
        for id_ in fresh:
            debt.fresh.pop(id_, None)
        debt.told, debt.since_s = line, None

    def answering(self, peer: PeerId, fresh: Sequence[ContributionId], line: object, now_s: float) -> bool:
        """An answer brings it these and this line of mine, if it arrives. Whether a call of mine will make sure.

        Of contributions `have` says soon enough that I hold them; the line is told again after the patience, in a call.
        """
        debt = self._debts.get(peer)
        if debt is None:
            return False
        for id_ in fresh:
            debt.fresh.pop(id_, None)
        debt.hinted, debt.hinted_s, debt.since_s = line, now_s, None
        return True

    def _line_due_s(self, debt: _Debt, peer: PeerId, line: object, now_s: float) -> float:
        """When to call it with what it was not told, were no call under way."""
        if not debt.fresh and debt.hinted == line:
            return debt.hinted_s + self.patience_s
        if debt.since_s is None:
            debt.since_s = now_s
        is_first = debt.fresh and is_first_of_pair(self._me, peer)
        return debt.since_s if is_first else debt.since_s + self._gossip.coalesce_s

    def _debt(self, peer: PeerId, peers: Sequence[PeerId]) -> _Debt:
        """What is owed to one of the present peers; where there is no room for it, who is absent is forgotten."""
        if peer not in self._debts:
            if len(self._debts) >= self._gossip.direct_members_max:
                self._debts = {one: debt for one, debt in self._debts.items() if one in peers}
            self._debts[peer] = _Debt()
        return self._debts[peer]

    def _again_s(self, debt: _Debt) -> float:
        """Not to be called before: a call is under way, or was not answered."""
        if not debt.silent:
            return -inf
        pause_s = self.patience_s * 2.0 ** min(debt.silent - 1, 10)
        return debt.call_s + min(pause_s, max(self.patience_s, self._gossip.gossip_interval_s))


def is_first_of_pair(me: PeerId, other: PeerId) -> bool:
    """Exactly one of two peers is; each is of about half of its pairs."""
    return (me < other) != bool((me[-1] ^ other[-1]) & 1)
