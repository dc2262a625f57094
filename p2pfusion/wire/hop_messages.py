"""What devices of a chain of hops say to each other (MP-SL), as frozen values; `hops` has their form on the wire.

`Offers` go round as gossip does; `Take`, `Back` and `Word` are orders and news of one owner; a `Passage` carries one
batch's activations or gradients to the next hop.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldShard:
    """What a device holds of one shard: its tip, the chain (32 bytes) and SHA-256 of the model there.

    `is_settled`: nothing newer than the tip is known there or still to come from there. Of the owners' own shard that
    means that this owner's run has ended.
    """

    shard: int
    tip_round: int
    chain: bytes
    model_sha256: bytes
    is_settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A relay in a chain, and its stage: shards `first` to `last`, both included."""

    device: bytes
    address: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A chain, and the owners whose batches go through it, ascending."""

    owners: tuple[bytes, ...]
    hops: tuple[Hop, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A device's own line, numbered by (incarnation, beat); relayed by anyone, the newest wins.

    `run` (16 bytes) is of the swarm's model and cutting. `round`: the newest of an owner, 0 of who is none.
    `memory_bytes`: what it gives to relaying. `batch_us`: microseconds that all middle blocks take here for one batch,
    forward, backward and step; 0: not measured. `chain`: what an owner's batches go through. `held` ascends by shard.
    `lanes`: what the owner that plans has planned for all.
    """

    run: bytes
    device: bytes
    name: str
    addresses: tuple[str, ...]
    incarnation: int
    beat: int
    is_owner: bool
    is_relay: bool
    is_leaving: bool
    round: int
    memory_bytes: int
    batch_us: int
    chain: tuple[Hop, ...]
    held: tuple[HeldShard, ...]
    lanes: tuple[Lane, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """Body of `POST /v1/hops/offers`, both ways: ascending by device."""

    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """An owner asks a relay to hold a stage: shards `first` to `last`, both included, of its chain `epoch`.

    `previous` and `next` are the addresses of the neighbours in the chain, the owner's own at its ends. The copy of an
    epoch before `since` is void: its round begins again.
    """

    run: bytes
    owner: bytes
    owner_address: str
    epoch: int
    since: int
    first: int
    last: int
    previous: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """An owner asks a relay to keep a backup of shards `first` to `last`, both included."""

    run: bytes
    owner: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Body of `end` (the owner's round is over), `leave` and `failed` (a hop could not pass a batch on).

    `place` is the shard at which it stopped, and 0 where nothing did.
    """

    run: bytes
    owner: bytes
    epoch: int
    round: int
    batch: int
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One tensor of micro-batch `part` (from 0) of `parts` of one batch: activations on their way forward, or gradients
    on their way back.

    `shape` are its sizes, `payload` is what `tensors.encode` made of it with `codec`. Without `is_training` no gradient
    is to come back.
    """

    run: bytes
    owner: bytes
    epoch: int
    round: int
    batch: int
    part: int
    parts: int
    is_training: bool
    codec: str
    shape: tuple[int, ...]
    payload: bytes
