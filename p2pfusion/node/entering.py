"""The way into the swarm: from the first word to the first round.

A node that enters is `syncing`: it waits until it knows what those hold who train or observe already, or, where nobody
does, for `min_peers` and a quiet moment. Then it begins where the others stand, or with what their disks and its own
held (PROTOCOL.md 4 and 9). It moves no tip: the chain does; what the node is afterwards, the rounds say.
"""

from __future__ import annotations

from p2pfusion.config import OPEN_ROUNDS_MAX
from p2pfusion.errors import StoreError, TooFewPeers, UsageError
from p2pfusion.node.chain import Chain
from p2pfusion.node.state import LIFE, State

LOOK_AGAIN_S = 0.2
"""Least often a loop looks whether its time is up when nothing rings."""
TOLD_S = 10.0
"""After so long it is told what is waited for: by then who was started together has been found."""
DOUBT_INTERVALS = 3
"""Gossip intervals that news of me needs to a copy of mine, and its answer back, by way of a third node."""


async def enter(state: State, chain: Chain) -> None:
    """Wait for `min_peers` and a quiet moment, or for the state of those who have begun already.

    Raises `TooFewPeers`; `UsageError` when the swarm is beyond my end; `StoreError` when somebody else is me.
    """
    begin_s = state.newcomer_s = state.now_s()
    is_told = False
    while not _is_past_the_end(state) and not _may_begin(state, chain, begin_s):
        if not is_told and state.now_s() - begin_s >= TOLD_S:
            is_told = True
            _tell(state)
        await state.bells["round"].wait(LOOK_AGAIN_S)


def _tell(state: State) -> None:
    """What is waited for, where it is others."""
    here, wanted = len(state.membership.view(state.now_s()).peers) + 1, state.config.min_peers
    if here < wanted:
        state.warn("waiting", f"waiting to begin: {here} of the {wanted} of --min-peers are here, yourself counted")


def _may_begin(state: State, chain: Chain, begin_s: float) -> bool:
    """Whether I know what there is to know."""
    config, now_s = state.config, state.now_s()
    view = state.membership.view(now_s)
    if state.is_displaced:
        raise StoreError(
            f"another node on this LAN uses the identity in {state.doors.store.place}: the folder was copied; "
            "start this one with --fresh or another --state DIR"
        )
    if len(view.peers) + 1 < config.min_peers:
        if config.wait_s is not None and now_s - begin_s >= config.wait_s:
            raise TooFewPeers(
                f"met {len(view.peers) + 1} of {config.min_peers} peers (yourself counted) in {config.wait_s:g} s: "
                "start the others, or name one with --peer HOST:PORT if multicast is blocked"
            )
        return False
    if any(peer.role != "syncing" for peer in view.peers):
        return is_synced(state, chain) and not _is_doubtful(state, begin_s)
    state.first_round = state.ledger.tip.round
    return now_s - state.newcomer_s >= config.gossip.quiet_s and chain.better() is None


def _is_doubtful(state: State, begin_s: float) -> bool:
    """Whether somebody else may be me: who was here before gives those who know a copy time to tell of it."""
    if state.incarnation < 2 * LIFE:
        return False
    gossip, now_s = state.config.gossip, state.now_s()
    if state.doubted_s is not None and now_s - state.doubted_s < gossip.gossip_interval_max_s:
        return True  # a copy in slow rounds speaks no more often
    return now_s - begin_s < DOUBT_INTERVALS * gossip.gossip_interval_s


def _is_past_the_end(state: State) -> bool:
    """I need nothing more. Raises `UsageError` when the swarm is beyond the round I was to end at."""
    ledger, limit = state.ledger, state.ledger.limit
    tips = [s.tip_round for r, _ in state.membership.reports() if r.role != "syncing" for s in r.shards[:1]]
    if limit is None:
        return False
    if ledger.tip.round >= limit:
        return True
    if tips and min(tips) > limit:
        raise UsageError(f"the swarm is at round {min(tips)} already: choose a later --until rounds=N than {limit}")
    return False


def is_synced(state: State, chain: Chain) -> bool:
    """I stand where those stand who have begun: on the chain of one of them, no better tip is left to follow (one
    that led nowhere just now is no reason to begin behind everybody), and their newest round is known.
    """
    ledger, reports = state.ledger, state.membership.reports()
    shards = [s for r, _ in reports if r.role != "syncing" for s in r.shards[:1]]
    bound = ledger.tip.round + OPEN_ROUNDS_MAX if ledger.limit is None else ledger.limit
    newest = min(max((s.newest for s in shards), default=0), bound, ledger.tip.round + OPEN_ROUNDS_MAX)
    stands = any(ledger.has_chain(s.tip_round, s.tip_chain) for s in shards)
    return stands and chain.better() is None and ledger.newest >= newest
