"""The doors between pure code and the outside world: Transport, Discovery, Compute, Store.

Everything that acts goes through one of these four; `net`, `store` and `sim` implement them, `node` uses nothing else.
The fifth door is randomness, a `random.Random` given to whoever needs it; time is the event loop's. Contract tests run
one suite over every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

Body = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a peer. `path` begins with `/v1/`; `query` is the part behind `?`.

    `sender` is the id the caller claims (16 bytes, or empty): unproven, good for statistics and for nothing else.
    """

    method: str
    path: str
    body: Body = b""
    query: str = ""
    sender: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `pieces`, when given, is streamed behind `body`; a client always gets it joined in `body`."""

    status: int
    body: Body = b""
    pieces: Sequence[Body] = field(default=())


Handler = Callable[[Request], Awaitable[Reply]]


class Transport(Protocol):
    """Calls peers and serves their calls. Addresses are `host:port`, host an IP literal."""

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        """Send one request and return the reply, whatever its status.

        With `into`, for a GET only, a body of status 200 is streamed there and must fill it exactly; the reply's `body`
        is then `into`.
        Raises `Unreachable`, `DeadlineExceeded`, or `WireError` for an answer that is too long or short; `LocalError`
        for a buffer without a GET.
        """
        ...

    async def serve(self, handler: Handler) -> Sequence[str]:
        """Start listening; returns the addresses (at most 4) others may use. Raises `PortError`."""
        ...

    async def close(self) -> None:
        """Stop listening and close every connection; harmless when called twice."""
        ...


class Discovery(Protocol):
    """Announces this node and finds others. A hint, never a failure detector."""

    async def announce(self, tag: str, addresses: Sequence[str]) -> None:
        """Make this node findable by everybody who browses for the same tag (8 to 32 hex digits)."""
        ...

    def found(self, tag: str) -> AsyncIterator[tuple[str, ...]]:
        """Yield the addresses of each other node with this tag as it appears; never ends by itself."""
        ...

    async def close(self) -> None:
        """Say goodbye and stop; harmless when called twice."""
        ...


class Compute(Protocol):
    """Runs work that takes long away from the event loop."""

    async def run(self, work: Callable[[], T], *, cost_s: float = 0.0, lane: str = "train") -> T:
        """Run `work` and return its result or raise what it raised.

        Works of one lane run one after another; lanes do not wait for each other: `train`, `fold` (models, files) and
        `gate` (short: what peers sent is judged). `cost_s` is the virtual time the simulator charges; a real executor
        ignores it.
        """
        ...

    async def close(self) -> None:
        """Refuse new work and wait for nobody."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What must survive a restart: who I am, how often I started, the newest round of a run I published to.

    `incarnation` is the number of starts times 2^20; `last` means nothing in another run than `run_id`.
    """

    peer: bytes
    incarnation: int
    last: int
    run_id: bytes


Part = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A sealed model with its place in the chain, and what else its node must find again.

    `model` maps parameter names to float32 arrays, in blueprint order; `parts` are named arrays that mean nothing to
    the store.
    """

    run_id: bytes
    round: int
    chain: bytes
    weight: int
    model: dict[str, npt.NDArray[np.float32]]
    parts: dict[str, Part] = field(default_factory=dict)


class Store(Protocol):
    """Keeps what must survive a crash. Methods are synchronous and short, or run by the node in `Compute`."""

    @property
    def place(self) -> str:
        """Where that is, for people: a folder's path, or `memory`."""
        ...

    def load_identity(self) -> Identity | None:
        """The identity last saved, or None in a fresh folder. Raises `StoreError`."""
        ...

    def save_identity(self, identity: Identity) -> None:
        """Durable before it returns. Raises `StoreError`."""
        ...

    def forget_identity(self) -> None:
        """What is on disk is older than what was said: whoever starts here next is a new peer. Raises `StoreError`."""
        ...

    def load_checkpoint(self, run_id: bytes) -> Checkpoint | None:
        """The newest intact checkpoint of that run, or None. Raises `StoreError`."""
        ...

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Atomic: a reader sees the old or the new one. Raises `StoreError`."""
        ...

    def spill(self, data: Body) -> memoryview:
        """A read-only view of the same bytes, kept on disk instead of in memory until nobody refers to it.

        Nothing of it outlives the process. Raises `StoreError`, also where there is no disk.
        """
        ...
