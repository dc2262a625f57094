"""p2pfusion: devices on one LAN train one neural network together, without a server.

    async with lan_node(task, swarm="lab") as node:
        async for report in node.rounds():
            print(report.round, report.loss)

Every public name loads on first use (PEP 562), so that `import p2pfusion` and `p2pfusion --help` import neither torch
nor numpy nor aiohttp nor zeroconf. This module only knows where each name lives.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pfusion.algorithms.base import RoundReport
    from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig, RunConfig
    from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
    from p2pfusion.core.submodel import SubModel
    from p2pfusion.core.task import Task
    from p2pfusion.errors import LocalError, P2PFusionError, RemoteError, TaskError
    from p2pfusion.net.chained import chained_device
    from p2pfusion.net.lan import lan_node
    from p2pfusion.node import Done, Node, PeerEvent, WarningEvent
    from p2pfusion.store.exported import load_model

__version__ = "0.1.0"

_HOMES = {
    "lan_node": "p2pfusion.net.lan",
    "chained_device": "p2pfusion.net.chained",
    "load_model": "p2pfusion.store.exported",
    "Task": "p2pfusion.core.task",
    "Node": "p2pfusion.node",
    "NodeConfig": "p2pfusion.config",
    "RunConfig": "p2pfusion.config",
    "GossipConfig": "p2pfusion.config",
    "CadenceConfig": "p2pfusion.config",
    "RoundReport": "p2pfusion.algorithms.base",
    "PeerEvent": "p2pfusion.node",
    "WarningEvent": "p2pfusion.node",
    "Done": "p2pfusion.node",
    "Blueprint": "p2pfusion.core.blueprint",
    "Axis": "p2pfusion.core.blueprint",
    "Dim": "p2pfusion.core.blueprint",
    "Init": "p2pfusion.core.blueprint",
    "Parameter": "p2pfusion.core.blueprint",
    "SubModel": "p2pfusion.core.submodel",
    "P2PFusionError": "p2pfusion.errors",
    "LocalError": "p2pfusion.errors",
    "RemoteError": "p2pfusion.errors",
    "TaskError": "p2pfusion.errors",
}

__all__ = [
    "lan_node",
    "chained_device",
    "load_model",
    "Task",
    "Node",
    "NodeConfig",
    "RunConfig",
    "GossipConfig",
    "CadenceConfig",
    "RoundReport",
    "PeerEvent",
    "WarningEvent",
    "Done",
    "Blueprint",
    "Axis",
    "Dim",
    "Init",
    "Parameter",
    "SubModel",
    "P2PFusionError",
    "LocalError",
    "RemoteError",
    "TaskError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module and keep it here."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
