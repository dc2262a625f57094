"""Chains beside each other: which relays make up each, and which owners' batches go through which.

Where a network is cut into few pieces that differ, or owners are few, several short chains can be faster than one long;
each relay then holds more of the network for fewer owners. The shards' ledgers average over all relays that hold them,
so lanes meet there and nowhere else. Pure functions of a split and of offers, as `chains`. Source: the horizontally
scaled Parallel SL of PAPERS.md 3.1, with a chain in the place of its one relay.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from p2pfusion.core.playing import round_s
from p2pfusion.errors import TaskError
from p2pfusion.hops.chains import Chain, choose, fits, mend, times
from p2pfusion.hops.split import Split
from p2pfusion.wire.hops import LANES_MAX, Lane, Offer

Lanes = tuple[Lane, ...]
PLAYED_BATCHES = 10
"""Of each owner, to compare plans: enough for a pipeline to fill."""
FASTER_SHARE = 0.9
"""Another lane is opened only if rounds then take at most this share: it costs a ledger of every shard once more."""


def deal(
    split: Split, relays: Sequence[Offer], owners: Sequence[bytes], exactly: int | None = None, micro_batches: int = 1
) -> Lanes:
    """The fastest lanes that these relays can hold; more of them only where that is well worth it, or `exactly` so many
    if there are relays and owners for them.

    Raises `TaskError` when there are none.
    """
    most = min(len(relays), len(owners), LANES_MAX)
    if exactly is not None:
        return _dealt(split, relays, owners, max(1, min(exactly, most)))
    best: Lanes = ()
    best_s = math.inf
    is_enough = False
    for count in range(1, most + 1):
        if is_enough and count < most:
            continue
        with suppress(TaskError):
            found = _dealt(split, relays, owners, count)
            found_s = round_of(split, found, relays, micro_batches)
            if found_s <= FASTER_SHARE * best_s:
                best, best_s = found, found_s
            else:
                # As a rule nor are more of them, and each is a search of its own, in the loop's thread. But of three
                # equal relays two lanes still wait for the longer chain, and three for nobody.
                is_enough = True
    return best or _dealt(split, relays, owners, 1)  # raises: what is short, for people


def round_of(split: Split, lanes: Lanes, relays: Sequence[Offer], micro_batches: int = 1) -> float:
    """Seconds of a few batches of every owner, forecast: of the lane that is done last. Raises as `chains.times`."""
    chains = [times(split, lane.hops, relays, len(lane.owners)) for lane in lanes]
    return max(round_s(chain, PLAYED_BATCHES, micro_batches) for chain in chains)


def lane_of(lanes: Lanes, owner: bytes) -> Lane | None:
    """The owner's own; for one that is in none the emptiest; None where there is no lane."""
    own = next((lane for lane in lanes if owner in lane.owners), None)
    return own or min(lanes, key=lambda lane: len(lane.owners), default=None)


def seen(planner: Offer) -> Lanes:
    """What this owner plans for all; its own chain where it says nothing of others."""
    return planner.lanes or ((Lane(owners=(planner.device,), hops=planner.chain),) if planner.chain else ())


def peopled(lanes: Lanes, owners: Collection[bytes]) -> Lanes:
    """The same lanes with these owners: who is gone is left out, who is new joins the emptiest; no lane is empty."""
    kept = [replace(lane, owners=tuple(one for one in lane.owners if one in owners)) for lane in lanes]
    for owner in sorted(set(owners) - {one for lane in kept for one in lane.owners}) if kept else ():
        place = min(range(len(kept)), key=lambda place: len(kept[place].owners))
        kept[place] = replace(kept[place], owners=tuple(sorted((*kept[place].owners, owner))))
    return tuple(lane for lane in kept if lane.owners)


def have_room(split: Split, lanes: Lanes, relays: Sequence[Offer]) -> bool:
    """Whether every relay has room for the owners of its lane."""
    return all(fits(split, lane.hops, relays, len(lane.owners)) for lane in lanes)


def devices(lanes: Lanes) -> set[bytes]:
    """All relays that are used."""
    return {hop.device for lane in lanes for hop in lane.hops}


def mended(split: Split, lanes: Lanes, lost: Collection[bytes], relays: Sequence[Offer]) -> Lanes:
    """Each lane that lost a relay, mended among its own and the idle ones; none where that does not do, and all must be
    dealt anew.
    """
    left = [offer for offer in relays if offer.device not in lost]
    found = list(lanes)
    for place, lane in enumerate(lanes):
        if any(hop.device in lost for hop in lane.hops):
            taken = devices((*found[:place], *found[place + 1 :]))
            free = [offer for offer in left if offer.device not in taken]
            try:
                found[place] = replace(lane, hops=mend(split, lane.hops, lost, free, len(lane.owners)))
            except TaskError:
                return ()
    return tuple(found)


def _dealt(split: Split, relays: Sequence[Offer], owners: Sequence[bytes], count: int) -> Lanes:
    """So many lanes of about equal speed: the fastest relays first, there and back; owners by the lanes' speeds."""
    groups: list[list[Offer]] = [[] for _ in range(count)]
    for number, offer in enumerate(sorted(relays, key=lambda one: (one.batch_us, one.device))):
        turn, place = divmod(number, count)
        groups[place if turn % 2 == 0 else count - 1 - place].append(offer)
    groups.sort(key=lambda group: min((offer.device for offer in group), default=b""))
    counts = _shares([_speed(group) for group in groups], len(owners))
    waiting = iter(owners)
    lanes = []
    for group, many in zip(groups, counts, strict=True):
        chain: Chain = choose(split, group, many)
        lanes.append(Lane(owners=tuple(next(waiting) for _ in range(many)), hops=chain))
    return tuple(lanes)


def _speed(group: Sequence[Offer]) -> float:
    """Batches a second of all its relays together; one that was not measured counts as slow as one second."""
    return sum(1e6 / (offer.batch_us or 1e6) for offer in group)


def _shares(speeds: Sequence[float], owners: int) -> list[int]:
    """So many owners each, at least one; each goes where it finds most speed for itself."""
    counts = [1] * len(speeds)
    for _ in range(owners - len(speeds)):
        place = max(range(len(speeds)), key=lambda place: (speeds[place] / (counts[place] + 1), -place))
        counts[place] += 1
    return counts
