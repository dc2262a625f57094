"""Who must agree before a round may be sealed (PROTOCOL.md 4): everybody; of a round long overdue most; at last nobody.

A pure rule over members' lines; what agreeing means is the ledger's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2pfusion.swarm.entries import MemberLine


@dataclass(frozen=True, slots=True)
class Overdue:
    """How late a round is: rounds behind the newest known one, and how long it has been open."""

    behind_rounds: int
    open_s: float


def electorate(
    members: Sequence[MemberLine], round_: int, overdue: Overdue, horizon_rounds: int, grace_s: float
) -> tuple[Sequence[MemberLine], int] | None:
    """Who is asked, and how many must agree, me included; None when somebody is ahead: its links come first."""
    if overdue.behind_rounds < horizon_rounds or overdue.open_s < grace_s:
        return members, len(members) + 1
    if any(member.tip_round >= round_ for member in members):
        return None
    voters = [member for member in members if not member.is_suspect]
    if overdue.behind_rounds >= 4 * horizon_rounds and overdue.open_s >= 4 * grace_s:
        return voters, 1
    return voters, (len(voters) + 1) // 2 + 1
