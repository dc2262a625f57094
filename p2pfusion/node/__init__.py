"""The running object: the shell that wires the pure parts to the doors. It knows no algorithm and no real network."""

from p2pfusion.node.events import Done, Event, PeerEvent, WarningEvent
from p2pfusion.node.node import Node

__all__ = ["Done", "Event", "Node", "PeerEvent", "WarningEvent"]
