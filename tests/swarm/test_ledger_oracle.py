"""The real ledger against the executable model of the protocol, move by move, in worlds of loss, sleep and partition.

At every move of every node both must agree on the chain (which ids each link counts, and what weighs how much), on the
complete ids of each open round, on the floor and the newest round, and on whether the next round may be sealed and with
what. Small horizons are not the protocol's, but they take the rarer ways to seal and many more switches.
"""

from __future__ import annotations

from collections import Counter

import pytest

from p2pfusion.swarm.ledger import Entry, Ledger, MemberLine
from tests.oracle.twin import run_world

WORLDS = {
    "loss and crashes": {"partitions": False},
    "closing lids": {"partitions": False, "lids": 0.5},
    "partitions and clogged links": {"partitions": True},
}
MET = {
    ("loss and crashes", 8): {"by all", "by majority", "followed"},
    ("closing lids", 8): {"by all", "by majority", "followed"},
    ("partitions and clogged links", 8): {"by all", "by majority", "followed", "switched", "grafted"},
    ("loss and crashes", 2): {"by all", "by majority", "followed"},
    ("closing lids", 2): {"by all", "by majority", "followed"},
    ("partitions and clogged links", 2): {"by all", "by majority", "late", "followed", "switched", "grafted"},
}
"""What must have happened at least once, or the world proves nothing."""


@pytest.mark.parametrize(("world", "horizon"), MET)
def test_ledger_and_model_agree(monkeypatch, world, horizon):
    total = Counter()
    for seed in range(8 if horizon == 8 else 6):
        total += run_world(monkeypatch.setattr, seed, horizon=horizon, **WORLDS[world])
    assert total["diverged"] == 0
    assert MET[world, horizon] <= set(total)


@pytest.mark.parametrize("peers", [3, 4, 9])
def test_swarms_of_other_sizes(monkeypatch, peers):
    for seed in range(2):
        assert not run_world(monkeypatch.setattr, seed, horizon=8, n=peers, rounds=20, partitions=True)["diverged"]


def test_a_loss_that_was_settled_is_not_owed_any_more(monkeypatch):
    """The model forgets it a moment later than the ledger: found by 40 seeds of the soak."""
    assert not run_world(monkeypatch.setattr, 16, horizon=8, partitions=True)["diverged"]


# -- the comparison finds what it is there for ------------------------------------------------------------------------


def floor_that_forgets_newest(ledger: Ledger) -> int:
    return max(ledger.last + 1, ledger.tip.round + 1)


def agrees_without_promise(ledger: Ledger, member: MemberLine, round_: int, mine: bytes) -> bool:
    return member.tip_chain == ledger.tip.chain and member.digests.get(round_, mine) == mine


def agrees_on_another_chain(_: Ledger, member: MemberLine, round_: int, mine: bytes) -> bool:
    return member.floor > round_ and member.digests.get(round_, mine) == mine


def seals_at_once(ledger: Ledger, _now_s: float, _members: object) -> tuple[Entry, ...] | None:
    return ledger.counted(ledger.tip.round + 1) or None


def never_seals_late(ledger: Ledger, now_s: float, members: list[MemberLine]) -> tuple[Entry, ...] | None:
    behind = ledger.newest - ledger.tip.round - 1
    return RIPE(ledger, now_s, members) if behind < ledger.run.horizon_rounds else None


def switch_that_forgets_open_work(ledger: Ledger, fork_round: int, links: object) -> object:
    left = SWITCH(ledger, fork_round, links)
    ledger.open.clear()
    return left


def switch_that_keeps_the_lost(ledger: Ledger, fork_round: int, links: object) -> object:
    entries = dict(ledger.entries)
    left = SWITCH(ledger, fork_round, links)
    ledger.entries = entries | ledger.entries
    return left


RIPE, SWITCH = Ledger.ripe, Ledger.switch
FAULTS = {
    "floor forgets newest": (Ledger, "floor", property(floor_that_forgets_newest)),
    "no promise needed": (Ledger, "_agrees", agrees_without_promise),
    "another chain counts as agreement": (Ledger, "_agrees", agrees_on_another_chain),
    "seals at once": (Ledger, "ripe", seals_at_once),
    "never seals late": (Ledger, "ripe", never_seals_late),
    "incomplete ones count": (Entry, "is_complete", property(lambda _: True)),
    "switch forgets open work": (Ledger, "switch", switch_that_forgets_open_work),
    "switch keeps the lost": (Ledger, "switch", switch_that_keeps_the_lost),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_ledger_is_found_out(monkeypatch, fault):
    monkeypatch.setattr(*FAULTS[fault])

    def worlds() -> None:
        for seed in range(4):
            run_world(monkeypatch.setattr, seed, horizon=2, partitions=True)

    with pytest.raises(AssertionError):
        worlds()
