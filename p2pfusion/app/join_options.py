"""What `p2pfusion join` was called with, and the little that follows from it alone. Knows no node."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from p2pfusion.app.values import Part, Until
from p2pfusion.config import GossipConfig
from p2pfusion.errors import UsageError

if TYPE_CHECKING:
    from p2pfusion.net.chained import ChainRole


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """What `join` was called with; units as `values` parses them."""

    task: str
    swarm: str
    name: str | None
    until: Until | None
    timeout: float | None
    wait: float | None
    min_peers: int
    peers: tuple[str, ...]
    listen: str
    data_part: Part | None
    state: Path | None
    fresh: bool
    device: str
    codec: str
    density: float
    limit_rate: float | None
    budget: float | None
    metrics: int | None
    quiet_period: float | None
    leave_on_eof: bool
    rate: float | Literal["auto"]
    role: ChainRole
    memory: int | None
    hop_codec: str
    micro_batches: int
    keeps_all: bool
    algorithm: str
    common: float
    momentum: float
    seed: int
    json: bool
    quiet: bool
    verbose: bool

    @property
    def gossip(self) -> GossipConfig:
        """The defaults, but for what was said."""
        return GossipConfig() if self.quiet_period is None else GossipConfig(quiet_s=self.quiet_period)


def part_of(options: JoinOptions) -> tuple[int, int] | None:
    """(i, n) of --data-part."""
    return None if options.data_part is None else (options.data_part.index, options.data_part.count)


def numeric_address(address: str, option: str) -> str:
    """The same address with the host as an IP literal; a name is looked up. Raises `UsageError`."""
    host, _, port = address.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        try:
            found = socket.getaddrinfo(host, int(port), family=socket.AF_INET, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(
                f"{option} {address}: nobody knows a computer named {host}: give its IP address"
            ) from error
        return f"{found[0][4][0]}:{port}"
    return address
