"""What an observer of a simulated swarm may see, and when it is asked to look.

Observers stand outside: they read nodes and machines and never change them. They are told which node may have changed,
so that looking costs little. This module only names these two sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from p2pfusion.node import Event, Node
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.machines import Machine
from p2pfusion.sim.network import Network
from p2pfusion.sim.scenario import Scenario


class Swarm(Protocol):
    """A `World`, as its observers see it."""

    network: Network
    scenario: Scenario

    @property
    def machines(self) -> Sequence[Machine]:
        """By node number."""
        ...

    @property
    def nodes(self) -> Mapping[int, Node]:
        """Of those that have started, the last node of each machine."""
        ...

    @property
    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        ...


class Observer(Protocol):
    """Somebody who watches; what it raises ends the run."""

    def look(self, index: int) -> None:
        """Node `index` may have changed."""
        ...

    def told(self, index: int, event: Event) -> None:
        """Node `index` has told this."""
        ...

    def befell(self, fault: Fault) -> None:
        """This has just happened."""
        ...

    def ended(self) -> None:
        """The run is over, its nodes are as they ended."""
        ...
