"""Who takes which stage: the chain that owners choose from what relays offer, and how it is mended when one is gone.

Pure functions of a split and of offers in order; whoever sees the same offers chooses the same chain. Owners that see
others choose another chain, which costs memory at relays and nothing else: shards are ledgers, and may have any number
of holders. Source: PAPERS.md 3.4; ours: mending, backups.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from p2pfusion.core.chain_times import ChainTimes
from p2pfusion.core.estimating import chain_of
from p2pfusion.core.planning import Order, Relay, Stage, plan
from p2pfusion.errors import TaskError
from p2pfusion.hops.split import Split
from p2pfusion.wire.hops import Hop, Offer

Chain = tuple[Hop, ...]
PLANNED_MAX = 8
"""Relays that all differ take an exact search twice as long with each more, in the loop's thread; eight take 0.1 s."""


def choose(split: Split, relays: Sequence[Offer], owners: int) -> Chain:
    """The fastest chain that these relays can hold for so many owners. Raises `TaskError` when there is none.

    Of more than `PLANNED_MAX` only the fastest count or, where those have no room, the roomiest.
    """
    if len(relays) > PLANNED_MAX:
        with suppress(TaskError):
            return _chosen(split, sorted(relays, key=lambda one: (one.batch_us, one.device))[:PLANNED_MAX], owners)
        relays = sorted(relays, key=lambda one: (-one.memory_bytes, one.device))[:PLANNED_MAX]
    return _chosen(split, relays, owners)


def _chosen(split: Split, relays: Sequence[Offer], owners: int) -> Chain:
    order = _order(split, relays, owners)
    return tuple(
        Hop(device=relays[one.relay].device, address=relays[one.relay].addresses[0], first=one.start, last=one.stop - 1)
        for one in plan(order).stages
    )


def fits(split: Split, chain: Chain, relays: Sequence[Offer], owners: int) -> bool:
    """Whether every relay of the chain has room for so many owners."""
    room = {offer.device: offer.memory_bytes for offer in relays}
    return all(split.memory_bytes(hop.first, hop.last, owners) <= room.get(hop.device, 0) for hop in chain)


def mend(split: Split, chain: Chain, lost: Collection[bytes], relays: Sequence[Offer], owners: int) -> Chain:
    """The chain without the lost devices: each stage of theirs goes whole to an idle relay, one that holds it already
    before others; where there is none to a neighbour in the chain, that is left and keeps its backup; where that does
    not do, everything is chosen anew among those who are left.

    Raises `TaskError` when they cannot hold it.
    """
    mended = _replaced(split, chain, lost, relays, owners) or _absorbed(split, chain, lost, relays, owners)
    return mended or choose(split, [offer for offer in relays if offer.device not in lost], owners)


def _absorbed(split: Split, chain: Chain, lost: Collection[bytes], relays: Sequence[Offer], owners: int) -> Chain:
    """One lost stage goes to a neighbour that holds all of it and has room for both; empty where there is none."""
    gone = [hop for hop in chain if hop.device in lost]
    if len(gone) != 1:
        return ()
    offers, wanted = {offer.device: offer for offer in relays}, gone[0]
    for hop in chain:
        is_next = hop.first == wanted.last + 1 or hop.last == wanted.first - 1
        if is_next and hop.device in offers and _held(offers[hop.device], wanted) == wanted.last - wanted.first + 1:
            both = replace(hop, first=min(hop.first, wanted.first), last=max(hop.last, wanted.last))
            if split.memory_bytes(both.first, both.last, owners) <= offers[hop.device].memory_bytes:
                return tuple(both if one is hop else one for one in chain if one is not wanted)
    return ()


def _replaced(split: Split, chain: Chain, lost: Collection[bytes], relays: Sequence[Offer], owners: int) -> Chain:
    """Idle relays in the place of the lost; empty where they do not do."""
    left = [offer for offer in relays if offer.device not in lost]
    used = {hop.device for hop in chain}
    found: list[Hop] = []
    for hop in chain:
        if hop.device not in lost:
            found.append(hop)
            continue
        need = split.memory_bytes(hop.first, hop.last, owners)
        idle = [offer for offer in left if offer.device not in used and need <= offer.memory_bytes]
        if not idle:
            return ()
        taken = max(idle, key=lambda offer: (_held(offer, hop), offer.memory_bytes, offer.device))
        used.add(taken.device)
        found.append(replace(hop, device=taken.device, address=taken.addresses[0]))
    return tuple(found)


def backups(chain: Chain, relays: Sequence[Offer]) -> tuple[Hop, ...]:
    """For each stage a second device that keeps its ledger: an idle relay, else the next of the chain.

    Nobody where one relay is all there is.
    """
    used = {hop.device for hop in chain}
    idle = [offer for offer in relays if offer.device not in used]
    load = {offer.device: len(offer.held) for offer in idle}
    found = []
    for place, hop in enumerate(chain):
        if idle:
            keeper = max(idle, key=lambda offer: (_held(offer, hop), -load[offer.device], offer.device))
            load[keeper.device] += hop.last - hop.first + 1
            found.append(replace(hop, device=keeper.device, address=keeper.addresses[0]))
        elif len(chain) > 1:
            other = chain[(place + 1) % len(chain)]
            found.append(replace(hop, device=other.device, address=other.address))
    return tuple(found)


def times(split: Split, chain: Chain, relays: Sequence[Offer], owners: int) -> ChainTimes:
    """What the chain takes for a batch, forecast. Raises `ValueError` for a hop that offers nothing."""
    order = _order(split, relays, owners)
    devices = [offer.device for offer in relays]
    stages = [Stage(relay=devices.index(hop.device), start=hop.first, stop=hop.last + 1) for hop in chain]
    return chain_of(order, stages, Relay(name="owner"))


def _order(split: Split, relays: Sequence[Offer], owners: int) -> Order:
    if not relays:
        raise TaskError("there is no relay: start one on another device with --role relay")
    middle_us = round((split.forward_s(1, split.shards.count - 1) + split.backward_s(1, split.shards.count - 1)) * 1e6)
    return Order(
        profile=split.steps,
        relays=tuple(
            Relay(
                name=offer.name,
                speed=middle_us / offer.batch_us if offer.batch_us and middle_us else 1.0,
                memory_bytes=offer.memory_bytes,
            )
            for offer in relays
        ),
        owners=owners,
    )


def _held(offer: Offer, hop: Hop) -> int:
    """How many of the hop's shards the device holds already."""
    return sum(hop.first <= one.shard <= hop.last for one in offer.held)
