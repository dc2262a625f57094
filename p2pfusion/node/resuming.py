"""From a running node to a checkpoint, and from a checkpoint to a node that goes on where it stopped.

`capture` takes references on the loop ; `Captured.checkpoint` adds up, hashes and packs in the executor.
`examined` judges what a disk gave back as if it came from a stranger, chain, hashes and gate, and changes nothing;
`resume` installs it. What is saved is the state as it stands: the sealed model at the tip, links, complete open
contributions, counted and owed grafts, my own work with what counts of it, the residual. It knows no files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import LINKS_KEPT_MAX, RunConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.errors import WireError
from p2pfusion.node import contents, snapshots
from p2pfusion.node.authoring import Authoring, Mine
from p2pfusion.node.contents import Contents
from p2pfusion.node.grafting import Grafting
from p2pfusion.node.records import OwnWork, Record, pack, unpack
from p2pfusion.node.snapshots import Kept, Snapshots
from p2pfusion.node.state import State
from p2pfusion.seams import Body, Checkpoint
from p2pfusion.swarm.entries import Entry
from p2pfusion.swarm.gate import judge, judge_segment
from p2pfusion.swarm.grafts import Grafts
from p2pfusion.wire.codec import contribution_id, decode_snapshot, encode_snapshot, genesis_chain
from p2pfusion.wire.messages import Contribution, Link

CHECKPOINT_S = 30.0
"""A checkpoint this old is written anew when the tip moves: with slow rounds the eighth may be an hour away."""
CHECKPOINT_MIN_S = 2.0
"""A small one is written this often: what all devices have sealed since theirs is gone if all crash at once."""
CHECKPOINT_BYTES_PER_S = 4 << 20
"""A large one is written as much more seldom as this average asks: no disk is worn out by a model of 100 MB."""
OPEN_SAVED_BYTES_MAX = 256 << 20
"""Payload of others' open contributions in a checkpoint, oldest rounds first: they hold them too. Mine all go in."""
MINE_SAVED_BYTES_MAX = 64 << 20
"""Own work that is sealed already, encoded, newest first: it matters only if the chain changes its mind about it."""
ADDRESSES_SAVED_MAX = 64
"""Where the others were: who returns calls them at once, before discovery has found anybody."""


class Unfit(Exception):
    """What the disk gave back is not a state of this run."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One moment of a node, as references and copies that nothing changes any more."""

    run_id: bytes
    blueprint: Blueprint
    model: Vector
    kept: Kept | None
    grafts: Grafts
    record: Record
    residual: Callable[[], Vector | None]
    contents: Contents

    @property
    def pause_s(self) -> float:
        """How long this checkpoint may be the newest while the tip moves on."""
        mine = [work.sent[0] for work in self.record.mine if work.sent is not None]
        payload = sum(map(_size, [*mine, *(manifest for manifest, _ in self.record.open)]))
        size = self.model.nbytes + payload + sum(left.nbytes for _, left in self.record.losses)
        return min(max(CHECKPOINT_MIN_S, size / CHECKPOINT_BYTES_PER_S), CHECKPOINT_S)

    def checkpoint(self) -> Checkpoint:
        """Hash the model and pack everything (executor)."""
        tip, residual = self.record.links[-1], self.residual()
        kept = self.kept or snapshots.counting(snapshots.take(self.run_id, tip, self.model), self.grafts)
        record = replace(
            self.record,
            snapshot=encode_snapshot(kept.manifest),
            covered=b"".join(kept.covered),
            residual=residual if residual is not None and residual.any() else None,
        )
        return Checkpoint(
            run_id=self.run_id,
            round=tip.round,
            chain=tip.chain,
            weight=tip.weight,
            model=named(self.blueprint, self.model),
            parts={**pack(record), contents.PART: contents.pack(self.blueprint, self.contents)},
        )


def capture(state: State, authoring: Authoring, grafting: Grafting, kept: Snapshots) -> Captured:
    """The state as it stands between two steps of the loop."""
    ledger, left = state.ledger, grafting.left
    opened = tuple(_open_work(state))
    open_ids = {contribution_id(manifest) for manifest, _ in opened}
    peers = state.membership.view(state.now_s()).peers
    record = Record(
        peer=state.me,
        last=ledger.last,
        doubtful=authoring.doubtful,
        addresses=tuple(address for peer in peers for address in peer.addresses)[:ADDRESSES_SAVED_MAX],
        snapshot=b"",
        covered=b"",
        links=tuple(ledger.links),
        open=opened,
        mine=tuple(_own_work(state, authoring, open_ids)),
        losses=tuple((loss, left[loss.key]) for loss in ledger.losses if loss.key in left),
        residual=None,
    )
    return Captured(
        state.run_id,
        state.blueprint,
        state.replica.sealed,
        kept.by_chain(ledger.tip.chain),
        ledger.grafts.until(ledger.tip.round),
        record,
        authoring.residual(),
        Contents(state.algorithm.product, state.measured),
    )


def _open_work(state: State) -> Iterator[tuple[Contribution, tuple[Body, ...]]]:
    """Complete open contributions: all of mine, then the others' while there is room."""
    ledger = state.ledger
    entries = [entry for round_ in sorted(ledger.open) for entry in ledger.counted(round_)]
    room = OPEN_SAVED_BYTES_MAX
    for entry in sorted(entries, key=lambda entry: entry.manifest.peer != state.me):
        if entry.manifest.peer != state.me:
            room -= _size(entry.manifest)
            if room < 0:
                return
        yield entry.manifest, tuple(segment for segment in entry.segments if segment is not None)


def _own_work(state: State, authoring: Authoring, open_ids: set[bytes]) -> Iterator[OwnWork]:
    room = MINE_SAVED_BYTES_MAX
    for round_, mine in sorted(authoring.mine().items(), reverse=True):
        entry, sent = state.ledger.pinned.get(mine.id), None
        if mine.id not in open_ids:
            if entry is None:
                continue
            room -= _size(entry.manifest)
            if room < 0:
                return
            sent = entry.manifest, tuple(segment for segment in entry.segments if segment is not None)
        yield OwnWork(round=round_, id=mine.id, sub_model=mine.sub_model, is_counted=mine.is_counted, sent=sent)


def _size(manifest: Contribution) -> int:
    return sum(segment.size for segment in manifest.segments)


# -- back again -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Examined:
    """A checkpoint that holds what it says."""

    record: Record
    kept: Kept
    grafts: Grafts
    mine: dict[int, Mine]
    sealed: tuple[Entry, ...]
    """Own work that is not open any more, as far as its contents are here."""
    model_hash: bytes


def examined(checkpoint: Checkpoint, blueprint: Blueprint, run: RunConfig) -> Examined:
    """Judge everything again; what others would refuse is left out. Raises `Unfit` (executor)."""
    try:
        record = unpack(checkpoint.parts)
        model = _flat(checkpoint, blueprint)
        kept = _snapshot(checkpoint, record, model)
        _check_links(checkpoint, record.links)
        vectors = [model, *(left for _, left in record.losses), *([] if record.residual is None else [record.residual])]
        if any(vector.size != blueprint.size or not np.isfinite(vector).all() for vector in vectors):
            raise ValueError("numbers of another model, or none")
        grafts = snapshots.grafts_of(kept.manifest, record.covered)
        opened = tuple(item for item in record.open if _is_sound(item, blueprint, run))
        record = replace(record, open=opened)
        sent = (own.sent for own in record.mine if own.sent is not None)
        entries = tuple(_entry(item) for item in sent if _is_sound(item, blueprint, run))
        return Examined(record, kept, grafts, dict(_mine(record, blueprint)), entries, snapshots.hash_of(model))
    except (ValueError, TypeError, LookupError, struct.error, WireError) as error:
        raise Unfit(f"{type(error).__name__}: {error}") from None


def _flat(checkpoint: Checkpoint, blueprint: Blueprint) -> Vector:
    shapes = {p.name: blueprint.shape(p) for p in blueprint.parameters}
    if {name: values.shape for name, values in checkpoint.model.items()} != shapes:
        raise ValueError("another model")
    return np.concatenate([checkpoint.model[p.name].reshape(-1) for p in blueprint.parameters])


def _snapshot(checkpoint: Checkpoint, record: Record, model: Vector) -> Kept:
    """The sealed model again as others may ask for it; every segment's hash is compared."""
    manifest = decode_snapshot(record.snapshot)
    tip = record.links[-1]
    kept = snapshots.take(checkpoint.run_id, tip, model)
    grafts = snapshots.grafts_of(manifest, record.covered)
    kept = snapshots.counting(kept, grafts)
    if kept.manifest != manifest:
        raise ValueError("the model is not the one its manifest describes")
    return kept


def _check_links(checkpoint: Checkpoint, links: tuple[Link, ...]) -> None:
    """Their chain was computed anew; it must lead to where the model stands, and begin at genesis if it goes so far."""
    first, tip = links[0], links[-1]
    if (tip.round, tip.chain, tip.weight) != (checkpoint.round, checkpoint.chain, checkpoint.weight):
        raise ValueError("the links lead elsewhere")
    if (first.round == 0 and first.chain != genesis_chain(checkpoint.run_id)) or len(links) > LINKS_KEPT_MAX:
        raise ValueError("the links begin elsewhere")


def _is_sound(item: tuple[Contribution, tuple[Body, ...]], blueprint: Blueprint, run: RunConfig) -> bool:
    manifest, segments = item
    return judge(manifest, blueprint, run) is None and all(
        judge_segment(manifest, index, data, blueprint) is None for index, data in enumerate(segments)
    )


def _mine(record: Record, blueprint: Blueprint) -> Iterator[tuple[int, Mine]]:
    for own in record.mine:
        own.sub_model.validate(blueprint)
        if own.sent is not None and (contribution_id(own.sent[0]), own.sent[0].sub_model) != (own.id, own.sub_model):
            raise ValueError("own work that is another's")
        yield own.round, Mine(own.id, own.sub_model, own.is_counted)


def _entry(item: tuple[Contribution, tuple[Body, ...]]) -> Entry:
    manifest, segments = item
    entry = Entry(contribution_id(manifest), manifest)
    for index, data in enumerate(segments):
        entry.put(index, data)
    return entry


def resume(found: Examined, state: State, kept: Snapshots, authoring: Authoring, grafting: Grafting, last: int) -> None:
    """Install it. `last` is the newest round I published to, as the identity knows it: newer than the checkpoint.

    What the checkpoint of another peer says of its own work is not mine: whoever lost an identity starts clean.
    """
    ledger, record, is_me = state.ledger, found.record, found.record.peer == state.me
    ledger.install(record.links, found.grafts)
    state.replica.sealed = found.kept.model
    state.model_hash = found.model_hash
    kept.drop_above(-1)
    kept.keep(found.kept, state.now_s())
    for manifest, segments in record.open:
        entry = ledger.add(contribution_id(manifest), manifest, state.now_s())
        for index, data in enumerate(segments if entry is not None else ()):
            ledger.put(entry, index, data)  # type: ignore[arg-type]
    if not is_me:
        return
    known = {entry.id: entry for entry in (*found.sealed, *ledger.entries.values()) if entry.is_complete}
    for mine in found.mine.values():
        if mine.id in known:
            ledger.pin(known[mine.id])
    ledger.published(max(last, record.last))
    for loss, model in record.losses:
        ledger.losses.add(loss)
        grafting.remember(loss, model)
    after = max(record.last, ledger.tip.round)
    rounds = tuple(sorted({*(r for r in record.doubtful if r > ledger.tip.round), *range(after + 1, last + 1)}))
    authoring.resume(found.mine, record.residual, rounds)


def named(blueprint: Blueprint, model: Vector) -> dict[str, Vector]:
    """The flat model as arrays by parameter name, in their own shapes."""
    return {p.name: model[blueprint.parameter_slices[p.name]].reshape(blueprint.shape(p)) for p in blueprint.parameters}
