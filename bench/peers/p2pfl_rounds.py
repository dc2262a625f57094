"""p2pfl's rounds of the null model: one node over gRPC, or all nodes of a process over its memory protocol.

    python -m bench.peers.p2pfl_rounds --protocol grpc --nodes 1 --port 40000

p2pfl is under the GPL: this program runs by itself in p2pfl's own environment, and nothing of ours imports it. The
learner returns its model unchanged, every node is in the train set, settings are the library's defaults or its own
`set_standalone_settings`. Told over standard input what to do (`bench.peers.talk`) by `bench.rounds`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from p2pfl.communication.protocols.protobuff.grpc import GrpcCommunicationProtocol
from p2pfl.communication.protocols.protobuff.memory import MemoryCommunicationProtocol
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset
from p2pfl.learning.frameworks.learner import Learner
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel
from p2pfl.node import Node
from p2pfl.settings import Settings
from p2pfl.utils.utils import set_standalone_settings

from bench.peers.talk import Answer, Line, now_s

ELEMENTS = 256
LOOK_S = 0.005


class NullModel(P2PFLModel):
    """256 float32 and nothing to do with them."""

    def get_parameters(self) -> list[np.ndarray]:
        return [self.model]

    def set_parameters(self, params: list[np.ndarray] | bytes) -> None:
        if isinstance(params, bytes):
            params, self.additional_info = self.decode_parameters(params)
        self.model = np.asarray(params[0], np.float32)

    def get_framework(self) -> str:
        return "null"


class NullLearner(Learner):
    """Training that costs nothing: add one."""

    def fit(self) -> P2PFLModel:
        model = self.get_model()
        model.set_parameters([model.get_parameters()[0] + np.float32(1)])
        model.set_contribution([self.addr], 1)
        return model

    def interrupt_fit(self) -> None:
        return None

    def evaluate(self) -> dict[str, float]:
        return {}

    def get_framework(self) -> str:
        return "null"


class Peers:
    """The nodes of this process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._nodes = [self._node(options, index) for index in range(options.nodes)]
        for node in self._nodes:
            node.start()

    def _node(self, options: argparse.Namespace, index: int) -> Node:
        data = P2PFLDataset.from_generator(lambda: iter([{"x": 0.0}, {"x": 1.0}]))
        model = NullModel(np.zeros(ELEMENTS, np.float32), num_samples=1)
        is_grpc = options.protocol == "grpc"
        protocol = GrpcCommunicationProtocol() if is_grpc else MemoryCommunicationProtocol()
        address = f"127.0.0.1:{options.port + index}" if is_grpc else f"node-{index}"
        return Node(model, data, addr=address, learner=NullLearner(), protocol=protocol)

    @property
    def addresses(self) -> list[str]:
        return [node.addr for node in self._nodes]

    def connect(self, order: Mapping[str, Any]) -> Answer:
        """Everybody in this process to everybody of the list that comes before it."""
        for node in self._nodes:
            for address in order["addresses"]:
                if address < node.addr:
                    node.connect(address)
        return {}

    def count(self, order: Mapping[str, Any]) -> Answer:
        """How many neighbours the loneliest node has."""
        return {"neighbours": min(len(node.get_neighbors()) for node in self._nodes)}

    def run(self, order: Mapping[str, Any]) -> Answer:
        """Start learning (the first process only) and note when the round index of the first node here changes."""
        node = self._nodes[0]
        begin_s = now_s()
        if order["is_first"]:
            node.set_start_learning(rounds=order["rounds"], epochs=1, trainset_size=order["peers"])
        moments, seen = [], None
        while len(moments) <= order["rounds"] and now_s() < begin_s + order["limit_s"]:
            if node.state.round != seen:
                seen = node.state.round
                moments.append(now_s())
            time.sleep(LOOK_S)
        return {"moments": moments, "first": float(node.get_model().get_parameters()[0][0])}

    def stop(self) -> None:
        for node in self._nodes:
            node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("grpc", "memory"), required=True)
    parser.add_argument("--nodes", type=int, required=True, help="in this process")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--settings", choices=("default", "standalone"), default="default")
    options = parser.parse_args()
    line = Line()
    if options.settings == "standalone":
        set_standalone_settings()
    Settings.general.DISABLE_RAY = True
    peers = Peers(options)
    line.say({"addresses": peers.addresses, "versions": {name: version(name) for name in ("p2pfl", "numpy", "grpcio")}})
    line.serve({"connect": peers.connect, "count": peers.count, "run": peers.run})
    peers.stop()


if __name__ == "__main__":
    main()
