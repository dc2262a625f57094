"""Pulling a chain and a sealed model: links and manifest from one member, segments by hash from all who hold them.

It changes nothing: the caller installs what it returns.
"""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise

import numpy as np
from blake3 import blake3

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import COVERED_IDS_MAX, LINKS_KEPT_MAX
from p2pfusion.errors import RemoteError, WireError
from p2pfusion.node.calls import Calls
from p2pfusion.node.snapshots import grafts_of
from p2pfusion.node.state import State
from p2pfusion.seams import Request
from p2pfusion.swarm.grafts import Grafts, cover_sizes
from p2pfusion.swarm.haste import REST_S, RESTS_MAX, Haste
from p2pfusion.wire.codec import decode_links, decode_snapshot, next_chain
from p2pfusion.wire.compression import segment_sizes
from p2pfusion.wire.messages import Link, PeerId, Snapshot

FIRST_SHARE = 0.25
"""Of a segment's time for the first who is asked: it may never have heard it, and there are others."""


class Pull:
    """Asks members for snapshots."""

    def __init__(self, state: State, calls: Calls) -> None:
        self._state = state
        self._calls = calls

    async def links(self, holders: list[PeerId], after: int, until: int) -> list[Link]:
        """Links after a round, through `until` where they have them: in as many pages as that takes.

        Consecutive and each the hash of the one before, or `WireError`.
        """
        links: list[Link] = []
        while not links or links[-1].round < until:
            request = Request("GET", "/v1/links", query=f"from={links[-1].round if links else after}")
            reply = await self._calls.to_any(holders, request)
            if reply.status != 200:
                raise WireError(f"links: status {reply.status}")
            page = decode_links(reply.body)
            if not page or len(links) + len(page) > LINKS_KEPT_MAX:
                break
            for before, link in pairwise([*links[-1:], *page]):
                is_next = link.round == before.round + 1 and link.chain == next_chain(before.chain, link.ids)
                if not is_next or link.weight < before.weight:
                    raise WireError("links that are no chain")
            if any(link.graft is not None and link.graft not in link.ids for link in page):
                raise WireError("a link that counts a graft it does not name")
            links += page
        return links

    async def manifest(self, holders: list[PeerId], link: Link) -> Snapshot | None:
        """The manifest of the sealed model at a link; None when it is not kept. Raises `RemoteError`."""
        reply = await self._calls.to_any(holders, Request("GET", f"/v1/snapshots/{link.chain.hex()}"))
        if reply.status != 200:
            return None
        manifest = decode_snapshot(reply.body)
        covered = sum(record.covers for record in manifest.grafts)
        if covered > 2 * COVERED_IDS_MAX or manifest.grafts_total > link.round:
            raise WireError("a snapshot with more grafts than a chain remembers")
        covers = cover_sizes(covered)
        sizes = segment_sizes("fp32", self._state.blueprint.size) + covers
        stands = (manifest.run_id, manifest.round, manifest.chain, manifest.weight)
        if stands != (self._state.run_id, link.round, link.chain, link.weight):
            raise WireError("a snapshot that stands elsewhere than its link")
        if tuple(segment.size for segment in manifest.segments) != sizes:
            raise WireError("a snapshot of another size")
        return manifest

    async def model(self, peer: PeerId, manifest: Snapshot) -> tuple[Vector, Grafts]:
        """All segments by hash, from every member in turn, several at once."""
        state, model_bytes = self._state, self._state.blueprint.size * 4
        starts = [0, *accumulate(segment.size for segment in manifest.segments)]
        data = np.empty(starts[-1], np.uint8).data  # not zeroed: that alone would stop the loop for a large model
        holders = [peer, *(report.peer for report, _ in state.membership.reports() if report.peer != peer)]
        haste = Haste(state.config.gossip, state.config.limit_bytes_per_s)
        is_free = state.config.limit_bytes_per_s is None
        room = asyncio.Semaphore(places := min(state.config.gossip.fetches_in_flight_max, haste.segments_max))

        async def one(index: int) -> None:
            piece = data[starts[index] : starts[index + 1]]
            deadline_s = haste.deadline_s(len(piece), places * len(piece))
            async with room:
                for _ in range(RESTS_MAX):
                    is_busy = False
                    for turn in range(len(holders)):
                        holder = holders[(index + turn) % len(holders)]
                        share = FIRST_SHARE if turn == 0 and is_free and len(holders) > 1 else 1.0
                        status = await self._piece(holder, manifest, index, piece, share * deadline_s)
                        if status == 200:
                            return
                        is_busy |= status in (429, 503)
                    if not is_busy:
                        break
                    await asyncio.sleep(REST_S)
            raise WireError(f"snapshot segment {index} is nowhere to be had")

        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(manifest.segments)):
                    group.create_task(one(index))
        except ExceptionGroup as errors:
            _, ours = errors.split(RemoteError)
            if ours is not None:
                raise ours.exceptions[0] from None  # our own mistake is nobody else's
            raise WireError(str(errors.exceptions[0])) from None
        model = np.frombuffer(data, dtype="<f4", count=model_bytes // 4).astype(np.float32, copy=False)
        if not await state.doors.compute.run(lambda: bool(np.isfinite(model).all()), lane="gate"):
            raise WireError("a snapshot with numbers that are not finite")
        return model, grafts_of(manifest, bytes(data[model_bytes:]))

    async def _piece(
        self, holder: PeerId, manifest: Snapshot, index: int, piece: memoryview, deadline_s: float
    ) -> int | None:
        """The status of the answer; None when none came that is what was asked for."""
        request = Request("GET", f"/v1/snapshots/{manifest.chain.hex()}/{index}")
        try:
            reply = await self._calls.to_peer(holder, request, deadline_s, piece)
        except RemoteError:
            return None
        if reply.status != 200:
            return reply.status
        found = await self._state.doors.compute.run(lambda: blake3(piece).digest(), lane="gate")
        return 200 if found == manifest.segments[index].hash else None
