"""What can be in a packet's way besides chance: hosts that are down, deaf or clogged, pairs that are cut or walled off.

The state of these faults and the questions about them; `network` asks as a packet leaves and as it arrives. This module
moves no packet and knows no time.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pfusion.sim.hosts import Host
from p2pfusion.sim.links import Packet

HELD_MAX = 1 << 16
"""Packets that wait at a wall, all links together; those beyond are lost."""

Arrive = Callable[[], None]
"""What happens when a packet gets there."""


class Obstacles:
    """The faults of a network, changed from outside while it runs.

    `blocked` and `held` are functions of (source, target): what is blocked is lost, what is held waits.
    """

    def __init__(self) -> None:
        self.blocked: Callable[[int, int], bool] = lambda source, target: False
        self.held: Callable[[int, int], bool] = lambda source, target: False
        self._hosts: dict[int, Host] = {}
        self._severed: set[tuple[int, int]] = set()  # only ever asked for membership
        self._waiting: list[tuple[Packet, Arrive]] = []

    def crash(self, host: int) -> None:
        """Silence from now on: what it is answering is cancelled, nothing reaches or leaves it, its calls hang."""
        self._hosts[host].up = False
        self._hosts[host].drop_requests()

    def revive(self, host: int) -> None:
        """Back on the network; it answers again if its transport was not closed meanwhile."""
        self._hosts[host].up = True

    def sever(self, one: int, other: int) -> None:
        """Cut both directions between two hosts, packets in flight included."""
        self._severed.update(((one, other), (other, one)))

    def heal(self, one: int, other: int) -> None:
        """Undo `sever`."""
        self._severed.difference_update(((one, other), (other, one)))

    def clog(self, host: int, bytes_max: int | None) -> None:
        """Bodies beyond this many bytes get lost on their way from and to the host; None: all pass again."""
        self._hosts[host].clog_bytes = bytes_max

    def deafen(self, host: int, is_deaf: bool) -> None:
        """Whether anything leaves or reaches the host, which goes on by itself."""
        self._hosts[host].is_deaf = is_deaf

    # -- what the network asks ----------------------------------------------------------------------------------------

    def _is_cut(self, end: int, pair: tuple[int, int]) -> bool:
        """Does nothing pass at this end of this pair now?"""
        host = self._hosts.get(end)
        is_down = host is not None and (host.is_deaf or not host.up)
        return is_down or pair in self._severed or self.blocked(*pair)

    def _is_clogged(self, packet: Packet) -> bool:
        """Is its body too large for a clogged end?"""
        ends = (self._hosts.get(packet.source), self._hosts.get(packet.target))
        return any(
            host is not None and host.clog_bytes is not None and packet.size_bytes > host.clog_bytes for host in ends
        )

    def _hold(self, packet: Packet, arrive: Arrive) -> bool:
        """Keep it at its wall; False when there is no more room."""
        if len(self._waiting) >= HELD_MAX:
            return False
        self._waiting.append((packet, arrive))
        return True

    def _released(self) -> list[tuple[Packet, Arrive]]:
        """What no wall holds any more, in the order it was held."""
        waiting, self._waiting = self._waiting, []
        free = []
        for packet, arrive in waiting:
            if self.held(packet.source, packet.target):
                self._waiting.append((packet, arrive))
            else:
                free.append((packet, arrive))
        return free
