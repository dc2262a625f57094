"""Partitions: which walls stand between the nodes now, and what they do to what runs into them.

Tables made once from a scenario, and the list of those that stand. This module moves no packet.
"""

from __future__ import annotations

from p2pfusion.sim.faults import Partition
from p2pfusion.sim.scenario import Scenario

NO_SIDE = -1


class _Wall:
    """One partition, by host: host 0 is nobody's and on no side, host `i + 1` is node `i`."""

    __slots__ = ("hold", "one_way", "sides")

    def __init__(self, partition: Partition, nodes: int) -> None:
        found = [partition.side_of(node, nodes) for node in range(nodes)]
        self.sides = [NO_SIDE, *(NO_SIDE if side is None else side for side in found)]
        self.one_way = partition.one_way
        self.hold = partition.hold

    def stops(self, source: int, target: int) -> bool:
        one, other = self.sides[source], self.sides[target]
        if one == other or NO_SIDE in (one, other):
            return False
        return not self.one_way or one == 0


class Walls:
    """All partitions of a scenario, by their place in it."""

    def __init__(self, scenario: Scenario) -> None:
        self._walls = [_Wall(partition, scenario.nodes) for partition in scenario.partitions]
        self._standing: list[_Wall] = []

    def rise(self, index: int) -> None:
        """This partition begins."""
        self._standing.append(self._walls[index])

    def fall(self, index: int) -> None:
        """It ends."""
        self._standing.remove(self._walls[index])

    def nodes_of(self, index: int) -> list[int]:
        """Nodes that are on a side of it."""
        return [host - 1 for host, side in enumerate(self._walls[index].sides) if side != NO_SIDE]

    def is_blocking(self, source: int, target: int) -> bool:
        """Whether what host `source` sends to `target` is lost now."""
        return any(wall.stops(source, target) for wall in self._standing if not wall.hold)

    def is_holding(self, source: int, target: int) -> bool:
        """Whether it waits for a wall to fall."""
        return any(wall.stops(source, target) for wall in self._standing if wall.hold)
