"""Go on from weights that exist: a model that was exported, or one that somebody else has trained.

    p2pfusion join digits --algorithm full --until rounds=30
    p2pfusion export examples/model.safetensors
    p2pfusion join examples/fine_tune.py

All devices must begin with the same file: who has other weights is refused, for it would be another run.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from p2pfusion import Task
from p2pfusion.zoo import digits

WEIGHTS = Path(__file__).with_name("model.safetensors")


def task() -> Task:
    layers = {
        "hidden1": nn.Linear(64, 256),
        "relu1": nn.ReLU(),
        "hidden2": nn.Linear(256, 256),
        "relu2": nn.ReLU(),
        "out": nn.Linear(256, 10),
    }
    model = nn.Sequential(OrderedDict(layers))
    model.load_state_dict(load_file(WEIGHTS))
    train, validation = digits.load()
    return Task(
        model,
        (1 - train.x, train.y),  # something new: white on black becomes black on white
        (1 - validation.x, validation.y),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        init="given",
    )
