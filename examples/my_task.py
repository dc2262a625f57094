"""A task of your own: one function, `task()`. Everybody in the swarm uses the same file.

    p2pfusion check examples/my_task.py
    p2pfusion join examples/my_task.py

The file runs on your computer only; peers never send code.
"""

import torch
from torch import nn

from p2pfusion import Task


def task() -> Task:
    """Which of four stripes is in a noisy 8 x 8 picture? A small convolutional network finds out."""
    x, y = pictures(2000)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),  # not BatchNorm: its statistics cannot be averaged across slices
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 64),
        nn.ReLU(),
        nn.Linear(64, 4),
    )
    return Task(
        model,
        train=(x[:1600], y[:1600]),
        validation=(x[1600:], y[1600:]),
        loss=nn.functional.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        steps_per_round=20,
    )


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 1, 8, 8) pictures with a bright stripe in one of four places, and which. Runs under the run's seed."""
    y = torch.randint(0, 4, (count,))
    x = torch.randn(count, 1, 8, 8) * 0.7
    for place in range(4):
        x[y == place, :, 2 * place : 2 * place + 2, :] += 1.0
    return x, y
