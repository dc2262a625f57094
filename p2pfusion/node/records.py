"""What a checkpoint holds besides the model, as the named arrays of a store, and back: strictly, bit for bit.

Bytes only: whether what comes back may be believed is `resuming`'s question. Chains are not written down but computed
again from the ids, so a record cannot hold links that are no chain.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.seams import Body, Part
from p2pfusion.swarm.grafts import ID_BYTES, Loss, ids_in
from p2pfusion.wire.codec import decode_contribution, encode_contribution, next_chain
from p2pfusion.wire.messages import Contribution, ContributionId, Link, PeerId

_FIRST = struct.Struct("<Q32s")
_LINK = struct.Struct("<QHH")
_NO_GRAFT = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWork:
    """A contribution of mine: with its manifest and segments, unless it is among the open ones."""

    round: int
    id: ContributionId
    sub_model: SubModel
    is_counted: bool
    sent: tuple[Contribution, tuple[Body, ...]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything beside the model. `doubtful`: rounds I may have published to, without knowing what became of it.

    `snapshot` and `covered` are the sealed model's manifest and the ids behind it, as they go on the wire.
    """

    peer: PeerId
    last: int
    doubtful: tuple[int, ...]
    addresses: tuple[str, ...]
    snapshot: bytes
    covered: bytes
    links: tuple[Link, ...]
    open: tuple[tuple[Contribution, tuple[Body, ...]], ...]
    mine: tuple[OwnWork, ...]
    losses: tuple[tuple[Loss, Vector], ...]
    residual: Vector | None


def pack(record: Record) -> dict[str, Part]:
    """Named arrays; large ones are views, not copies (executor)."""
    parts: dict[str, Part] = {
        "snapshot": _bytes(record.snapshot),
        "covered": _bytes(record.covered),
        "links": _bytes(_pack_links(record.links)),
    }
    for number, (manifest, segments) in enumerate(record.open):
        parts[f"open.{number}"] = _bytes(encode_contribution(manifest))
        for index, segment in enumerate(segments):
            parts[f"open.{number}.{index}"] = _bytes(segment)
    for own in record.mine:
        if own.sent is not None:
            parts[f"mine.{own.round}"] = _bytes(encode_contribution(own.sent[0]))
            for index, segment in enumerate(own.sent[1]):
                parts[f"mine.{own.round}.{index}"] = _bytes(segment)
    for number, (loss, model) in enumerate(record.losses):
        parts[f"loss.{number}"] = model
        parts[f"loss.{number}.covers"] = _bytes(b"".join(sorted(loss.covers)))
    if record.residual is not None:
        parts["residual"] = record.residual
    parts["record"] = _bytes(json.dumps(_plain(record)).encode())
    return parts


def unpack(parts: dict[str, Part]) -> Record:
    """Raises `ValueError`, `KeyError`, `TypeError`, `struct.error` or `WireError` for what `pack` did not write."""
    plain = json.loads(_body(parts, "record"))
    manifests = [decode_contribution(_body(parts, f"open.{number}")) for number in range(plain["open"])]
    residual = parts.get("residual")
    return Record(
        peer=bytes.fromhex(plain["peer"]),
        last=int(plain["last"]),
        doubtful=tuple(map(int, plain["doubtful"])),
        addresses=tuple(map(str, plain["addresses"])),
        snapshot=_body(parts, "snapshot"),
        covered=_body(parts, "covered"),
        links=_unpack_links(_body(parts, "links")),
        open=tuple(
            (manifest, tuple(_body(parts, f"open.{number}.{index}") for index in range(len(manifest.segments))))
            for number, manifest in enumerate(manifests)
        ),
        mine=tuple(_own_work(fields, parts) for fields in plain["mine"]),
        losses=tuple(_loss(fields, number, parts) for number, fields in enumerate(plain["losses"])),
        residual=None if residual is None else _vector(residual),
    )


def _plain(record: Record) -> dict[str, Any]:
    return {
        "peer": record.peer.hex(),
        "last": record.last,
        "doubtful": record.doubtful,
        "addresses": record.addresses,
        "open": len(record.open),
        "mine": [
            {
                "round": own.round,
                "id": own.id.hex(),
                "is_counted": own.is_counted,
                "blocks": own.sub_model.blocks,
                "kept": own.sub_model.kept,
            }
            for own in record.mine
        ],
        "losses": [
            {
                "fork_chain": loss.key[0].hex(),
                "lost_chain": loss.key[1].hex(),
                "length": loss.length,
                "weight": loss.weight,
                "fork_weight": loss.fork_weight,
            }
            for loss, _ in record.losses
        ],
    }


def _own_work(fields: dict[str, Any], parts: dict[str, Part]) -> OwnWork:
    round_ = int(fields["round"])
    kept = tuple((str(axis), tuple((int(a), int(b)) for a, b in ranges)) for axis, ranges in fields["kept"])
    return OwnWork(
        round=round_,
        id=bytes.fromhex(fields["id"]),
        sub_model=SubModel(blocks=tuple(map(str, fields["blocks"])), kept=kept),
        is_counted=bool(fields["is_counted"]),
        sent=_sent(f"mine.{round_}", parts),
    )


def _sent(name: str, parts: dict[str, Part]) -> tuple[Contribution, tuple[Body, ...]] | None:
    """Own work that is sealed. In version 0.1 its decoded values were kept: of those only whether it counts is read,
    as of any work that is too old to be sent again.
    """
    if name not in parts or parts[name].dtype == np.float32:
        return None
    manifest = decode_contribution(_body(parts, name))
    return manifest, tuple(_body(parts, f"{name}.{index}") for index in range(len(manifest.segments)))


def _loss(fields: dict[str, Any], number: int, parts: dict[str, Part]) -> tuple[Loss, Vector]:
    loss = Loss(
        key=(bytes.fromhex(fields["fork_chain"]), bytes.fromhex(fields["lost_chain"])),
        length=int(fields["length"]),
        weight=int(fields["weight"]),
        fork_weight=int(fields["fork_weight"]),
        covers=frozenset(ids_in(_body(parts, f"loss.{number}.covers"))),
    )
    return loss, _vector(parts[f"loss.{number}"])


def _pack_links(links: Sequence[Link]) -> bytes:
    """The first link's place and chain; each link's weight, number of ids and graft among them; all ids."""
    rows = []
    for link in links:
        graft = _NO_GRAFT if link.graft is None else link.ids.index(link.graft)
        rows.append(_LINK.pack(link.weight, len(link.ids), graft))
    ids = [b"".join(link.ids) for link in links]
    return b"".join([_FIRST.pack(links[0].round, links[0].chain), struct.pack("<I", len(links)), *rows, *ids])


def _unpack_links(data: bytes) -> tuple[Link, ...]:
    return tuple(_links_of(data))


def _links_of(data: bytes) -> Iterator[Link]:
    round_, chain = _FIRST.unpack_from(data)
    (count,) = struct.unpack_from("<I", data, _FIRST.size)
    rows_from = _FIRST.size + 4
    start = rows_from + count * _LINK.size
    for number in range(count):
        weight, size, graft = _LINK.unpack_from(data, rows_from + number * _LINK.size)
        ids = ids_in(data[start : start + size * ID_BYTES])
        start += size * ID_BYTES
        if number:
            round_, chain = round_ + 1, next_chain(chain, ids)
        yield Link(round=round_, chain=chain, weight=weight, ids=ids, graft=None if graft == _NO_GRAFT else ids[graft])
    if start != len(data):
        raise ValueError("links of another length")


def _bytes(data: Body) -> Part:
    return np.frombuffer(data, np.uint8)


def _body(parts: dict[str, Part], name: str) -> bytes:
    part = parts[name]
    if part.dtype != np.uint8:
        raise ValueError(f"{name} is not bytes")
    return part.tobytes()


def _vector(part: Part) -> Vector:
    if part.dtype != np.float32 or part.ndim != 1:
        raise ValueError("not a flat float32 vector")
    return part.view(np.float32)
