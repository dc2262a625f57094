"""A limit on traffic, in bytes a second, over about a second: a token bucket, and the same on the running loop's clock.

Payload waits until the bucket allows it. Small control traffic never waits, or this node would seem dead while it is
only busy; what it takes is missing from the bucket, so payload pays for it. It knows neither sockets nor routes.
"""

from __future__ import annotations

import asyncio

BURST_S = 0.5
"""What an idle node may send at once, in seconds of its limit: above the limit by half in no second, and enough for a
piece of each transfer."""
PIECE_S = 0.1
"""A piece of payload is at most what the limit lets through in this time, so that traffic flows and does not jerk."""
PIECE_BYTES_MIN = 4 << 10
"""Below it the headers of TCP and the turns of the loop cost more than evenness is worth."""


class Bucket:
    """Fills with `bytes_per_s`, holds `BURST_S` of it, and may be overdrawn: who overdraws it waits."""

    def __init__(self, bytes_per_s: float, now_s: float = 0.0) -> None:
        """`bytes_per_s` is above 0; the bucket is full at `now_s`."""
        self.bytes_per_s = bytes_per_s
        self._most_bytes = BURST_S * bytes_per_s
        self._left_bytes = self._most_bytes
        self._at_s = now_s

    def take(self, size_bytes: int, now_s: float) -> float:
        """Seconds until so many bytes may move; they are booked at once, so whoever comes later waits longer."""
        self._fill(now_s)
        self._left_bytes -= size_bytes
        return max(0.0, -self._left_bytes / self.bytes_per_s)

    def let_pass(self, size_bytes: int, now_s: float) -> None:
        """These bytes move at once. They delay payload by `BURST_S` at most, so that it never stops for good."""
        self._fill(now_s)
        self._left_bytes = min(self._left_bytes, max(self._left_bytes - size_bytes, -self._most_bytes))

    def _fill(self, now_s: float) -> None:
        passed_s, self._at_s = max(0.0, now_s - self._at_s), max(self._at_s, now_s)
        self._left_bytes = min(self._most_bytes, self._left_bytes + passed_s * self.bytes_per_s)


class Throttle:
    """One direction of a node's traffic. Without a limit nothing ever waits."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._bucket: Bucket | None = None

    @property
    def is_limited(self) -> bool:
        return self._bytes_per_s is not None

    def piece_bytes(self, most_bytes: int) -> int:
        """How large a piece of payload may be that must not be larger than `most_bytes` anyway."""
        if self._bytes_per_s is None:
            return most_bytes
        return min(most_bytes, max(PIECE_BYTES_MIN, int(PIECE_S * self._bytes_per_s)))

    def seconds(self, size_bytes: int) -> float:
        """How long so many bytes take under the limit alone; 0 without one."""
        return 0.0 if self._bytes_per_s is None else size_bytes / self._bytes_per_s

    def book(self, size_bytes: int, *, is_payload: bool) -> float:
        """Count what is about to move, or just did; how long to wait before the next."""
        if self._bytes_per_s is None:
            return 0.0
        now_s = asyncio.get_running_loop().time()
        if self._bucket is None:
            self._bucket = Bucket(self._bytes_per_s, now_s)
        if is_payload:
            return self._bucket.take(size_bytes, now_s)
        self._bucket.let_pass(size_bytes, now_s)
        return 0.0

    async def wait(self, size_bytes: int, *, is_payload: bool) -> None:
        """The same, waited for."""
        if (wait_s := self.book(size_bytes, is_payload=is_payload)) > 0:
            await asyncio.sleep(wait_s)
