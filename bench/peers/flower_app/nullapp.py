"""Flower's side of the null model: FedAvg over 256 float32 that a client returns plus one, every round timed.

The server writes a JSON list of moments (monotonic clock, one before the first round and one after each) to the file
that `P2PFUSION_BENCH_MOMENTS` names. It knows no other system.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

ELEMENTS = 256
MOMENTS = "P2PFUSION_BENCH_MOMENTS"

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Training that costs nothing: add one."""
    arrays = [values + np.float32(1) for values in message.content["arrays"].to_numpy_ndarrays()]
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; the model must have grown by one in each."""
    rounds = int(os.environ.get("P2PFUSION_BENCH_ROUNDS", context.run_config.get("rounds", 4)))
    clients = int(os.environ.get("P2PFUSION_BENCH_CLIENTS", context.run_config.get("clients", 8)))
    moments: list[float] = []

    def note(round_: int, arrays: ArrayRecord) -> MetricRecord:
        moments.append(time.monotonic())
        first = float(arrays.to_numpy_ndarrays()[0][0])
        if first != round_:
            raise RuntimeError(f"round {round_}: the model is {first}, so nothing was averaged")
        return MetricRecord({"first": first})

    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    start = ArrayRecord({"w": Array(np.zeros(ELEMENTS, np.float32))})
    strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds, evaluate_fn=note)
    Path(os.environ[MOMENTS]).write_text(json.dumps(moments), encoding="utf-8")
