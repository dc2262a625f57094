"""Built-in tasks by name: what `p2pfusion join digits` and the demo learn.

A task is a value; how many devices share it and how is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from torch import nn

from p2pfusion.core.task import Task
from p2pfusion.core.training import Optimizer, Sgd
from p2pfusion.zoo import digits
from p2pfusion.zoo.blueprints import mlp


def digits_task() -> Task:
    """Hand-written digits with an MLP 64-256-256-10: 85,002 parameters, a round of 15 steps of 32 images."""
    train, test = digits.load()
    return Task(
        model=mlp(64, (256, 256), 10),
        train=(train.x, train.y),
        validation=(test.x, test.y),
        optimizer=_digits_optimizer,
        batch_size=32,
        steps_per_round=15,
    )


def _digits_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return Sgd(parameters, lr=0.1, momentum=0.9)


TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType({"digits": digits_task})
