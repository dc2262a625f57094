"""What a plan comes to: seconds of a batch and a round, bytes of every device, and the same without
hops, on one relay or on all of them side by side.

Adds the owners to a split that `planning` found. Pure arithmetic on a profile. Source: PAPERS.md 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2pfusion.core.chain_times import ChainTimes, OwnerTimes
from p2pfusion.core.planning import Order, Relay, Stage
from p2pfusion.core.playing import round_s
from p2pfusion.errors import TaskError


def chain_of(order: Order, stages: Sequence[Stage], owner: Relay) -> ChainTimes:
    """The chain's times with the order's number of owners, all of them devices like `owner`."""
    relays = tuple(order.relays[stage.relay].times(order.profile, stage.start, stage.stop) for stage in stages)
    return ChainTimes(owners=(_owner(order, owner, relays[0].in_s, relays[-1].out_s),) * order.owners, relays=relays,
                      mode=order.mode)  # fmt: skip


def owner_bytes(order: Order) -> int:
    """What an owner needs for its own two stages."""
    behind = len(order.profile.blocks) - order.last
    spans = ((0, order.first), (behind, behind + order.last))
    return sum(order.profile.memory_bytes(start, stop, 1, order.mode) for start, stop in spans)


def check_owner(order: Order, owner: Relay) -> None:
    """Raise `TaskError` when an owner cannot hold its own stages."""
    need = owner_bytes(order)
    if owner.memory_bytes is not None and need > owner.memory_bytes:
        raise TaskError(
            f"plan: an owner lacks {(need - owner.memory_bytes) / 1e6:.1f} MB: its {order.first} + {order.last} blocks "
            f"take {need / 1e6:.1f} MB and it has {owner.memory_bytes / 1e6:.1f} MB; let it keep fewer blocks"
        )


def one_hop(order: Order) -> Stage:
    """All middle blocks on the relay that is fastest with them, whether it has room or not: Parallel SL, P = 3."""
    paces = [_alone(order, number, Relay(name="owner")).full_s for number in range(len(order.relays))]
    return _everything(order, paces.index(min(paces)))


def side_by_side(order: Order) -> tuple[int, ...] | None:
    """Parallel SL on all relays: each holds everything between for some owners. How many each, or None without room.

    Owners go one by one to the relay that is done with them first, which is the best there is for equal owners.
    """
    start, stop = order.first, order.first + order.blocks
    paces = [_alone(order, number, Relay(name="owner")).full_s for number in range(len(order.relays))]
    counts = [0] * len(order.relays)
    for _ in range(order.owners):
        room = [
            number
            for number, relay in enumerate(order.relays)
            if relay.memory_bytes is None
            or order.profile.memory_bytes(start, stop, counts[number] + 1, order.mode) <= relay.memory_bytes
        ]
        if not room:
            return None
        counts[min(room, key=lambda number: (counts[number] + 1) * paces[number])] += 1
    return tuple(counts)


def side_by_side_s(order: Order, counts: Sequence[int], owner: Relay, batches: int) -> float:
    """Seconds of a round that way: of the relay that is done last."""
    alone = [(replace(order, owners=count, everybody=False), number) for number, count in enumerate(counts) if count]
    return max(round_s(_alone(one, number, owner), batches) for one, number in alone)


def _everything(order: Order, relay: int) -> Stage:
    """All middle blocks on that relay."""
    return Stage(relay=relay, start=order.first, stop=order.first + order.blocks)


def _alone(order: Order, relay: int, owner: Relay) -> ChainTimes:
    """The chain of that relay with everything between."""
    return chain_of(order, (_everything(order, relay),), owner)


def _owner(order: Order, owner: Relay, in_s: float, out_s: float) -> OwnerTimes:
    """A link takes as long as its slower end; in the paper's way the owner's, as it counts no other."""
    profile, behind = order.profile, len(order.profile.blocks) - order.last
    first, last = owner.times(profile, 0, order.first), owner.times(profile, behind, behind + order.last)
    is_full = order.mode == "full"
    return OwnerTimes(
        first_forward_s=first.forward_s,
        first_backward_s=first.backward_s,
        last_forward_s=last.forward_s,
        last_backward_s=last.backward_s,
        to_chain_s=max(first.out_s, in_s) if is_full else first.out_s,
        from_chain_s=max(last.in_s, out_s) if is_full else last.in_s,
    )
