"""The server's side: one function from `Request` to `Reply` for every route of PROTOCOL.md 10 that exists yet.

It reads the node's state and changes nothing, except through gossip and probes. Bodies of errors are fixed short codes.
"""

from __future__ import annotations

import re

from p2pfusion.config import LINKS_PER_REPLY_MAX
from p2pfusion.errors import WireError
from p2pfusion.node.gossiping import FULL, Gossiping
from p2pfusion.node.probing import ALIVE, Helping
from p2pfusion.node.snapshots import Snapshots
from p2pfusion.node.state import State
from p2pfusion.node.traffic import UNKNOWN
from p2pfusion.seams import Reply, Request
from p2pfusion.wire import routes
from p2pfusion.wire.codec import encode_contribution, encode_links, encode_snapshot
from p2pfusion.wire.messages import PeerId

_PATH = re.compile(r"/v1/(contributions|snapshots)/([0-9a-f]{64})(?:/(0|[1-9][0-9]{0,5}))?")
_FROM = re.compile(r"from=(0|[1-9][0-9]{0,15})")
_PEER = re.compile(r"peer=([0-9a-f]{32})")

NOT_FOUND = Reply(404, b"unknown")
MALFORMED = Reply(400, b"malformed")


class Serving:
    """Answers peers."""

    def __init__(self, state: State, gossiping: Gossiping, snapshots: Snapshots, helping: Helping) -> None:
        self._state = state
        self._gossiping = gossiping
        self._snapshots = snapshots
        self._helping = helping

    async def handle(self, request: Request) -> Reply:
        """The reply to one request, counted."""
        accounts, caller, path = self._state.accounts, self._caller(request), request.path
        accounts.call("received", caller)
        accounts.add("received", routes.kind(path), memoryview(request.body).nbytes, caller)
        try:
            is_probe = (request.method, request.path) == ("POST", "/v1/probe")
            reply = await self._helping.answer(request.body) if is_probe else self._route(request, caller)
        except WireError:
            reply = MALFORMED
        size_bytes = memoryview(reply.body).nbytes + sum(memoryview(piece).nbytes for piece in reply.pieces)
        accounts.add("sent", routes.kind(path, reply.status), size_bytes, caller)
        return reply

    def _caller(self, request: Request) -> PeerId:
        """Whom to account a call to: the member it claims to come from; invented ids must not fill the table."""
        return request.sender if self._state.membership.report_of(request.sender) is not None else UNKNOWN

    def _route(self, request: Request, caller: PeerId) -> Reply:
        method, path = request.method, request.path
        if (method, path) == ("POST", "/v1/gossip"):
            return self._gossiping.answer(request.body, is_full=request.query == FULL, caller=caller)
        if (method, path) == ("GET", "/v1/ping"):
            return self._ping(request.query)
        if (method, path) == ("GET", "/v1/links"):
            return self._links(request.query)
        if method == "GET" and (found := _PATH.fullmatch(path)):
            kind, id_, index = found.groups()
            answer = self._contribution if kind == "contributions" else self._snapshot
            return answer(bytes.fromhex(id_), None if index is None else int(index))
        return NOT_FOUND

    def _ping(self, query: str) -> Reply:
        """Whoever asks for somebody by id wants no other: a new peer may live at the address of an old one."""
        if not query:
            return ALIVE
        found = _PEER.fullmatch(query)
        if found is None:
            return MALFORMED
        return ALIVE if bytes.fromhex(found[1]) == self._state.me else NOT_FOUND

    def _links(self, query: str) -> Reply:
        found = _FROM.fullmatch(query)
        if found is None:
            return MALFORMED
        links = self._state.ledger.links_after(int(found[1]), LINKS_PER_REPLY_MAX)
        while True:
            try:
                return Reply(200, encode_links(links))
            except ValueError:  # rounds of very many contributions: fewer of them fit
                links = links[: len(links) // 2]

    def _contribution(self, id_: bytes, index: int | None) -> Reply:
        entry = self._state.ledger.entries.get(id_)
        if entry is None:
            return NOT_FOUND
        if index is None:
            return Reply(200, encode_contribution(entry.manifest))
        segment = entry.segments[index] if index < len(entry.segments) else None
        return Reply(200, segment) if segment is not None else NOT_FOUND

    def _snapshot(self, chain: bytes, index: int | None) -> Reply:
        snapshot = self._snapshots.read(chain, self._state.now_s())
        if snapshot is None:
            return NOT_FOUND
        if index is None:
            return Reply(200, encode_snapshot(snapshot.manifest))
        segment = snapshot.segment(index)
        return Reply(200, segment) if segment is not None else NOT_FOUND
