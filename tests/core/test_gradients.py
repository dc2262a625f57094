"""Torch's own, without what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from p2pfusion.core.genesis import genesis
from p2pfusion.core.gradients import backward
from p2pfusion.core.training import loaded
from p2pfusion.zoo.blueprints import residual_cnn
from p2pfusion.zoo.transformers import vit

NETWORKS = {
    "convolutions": (residual_cnn(3, (8, 16), 10, groups=4), (2, 3, 8, 8)),
    "attention": (vit(8, 4, 3, 16, 2, 4, 32, 10), (2, 3, 8, 8)),
}


def module_of(name: str) -> tuple[nn.Module, torch.Tensor]:
    blueprint, shape = NETWORKS[name]
    torch.manual_seed(0)
    return loaded(blueprint, blueprint.whole(), genesis(blueprint, 0)).train(), torch.randn(shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_torchs_bit_for_bit(name: str) -> None:
    module, x = module_of(name)
    found = []
    for way in (backward, torch.autograd.backward):
        module.zero_grad()
        inside = x.clone().requires_grad_()
        output = module(inside)
        gradient = torch.linspace(-3, 2, output.numel()).reshape(output.shape)
        gradient[0, 0], gradient[0, 1] = -0.0, 1e-42  # a zero with a sign, and less than a normal number
        way(output, gradient)
        found.append([inside.grad, *(tensor.grad for tensor in module.parameters())])
    for mine, theirs in zip(*found, strict=True):
        assert mine.numpy().tobytes() == theirs.numpy().tobytes()


def test_a_device_of_a_chain_loads_neither_torchs_compiler_nor_sympy() -> None:
    """Its speed found, a batch through a stage and back."""
    code = (
        "import sys, numpy as np, torch\n"
        "from p2pfusion import Task\n"
        "from p2pfusion.net import chained\n"
        "from p2pfusion.core.splitting import Copy\n"
        "from p2pfusion.zoo.blueprints import mlp\n"
        "x = np.zeros((64, 8), np.float32)\n"
        "task = Task(mlp(8, (8, 8, 8), 2), (x, x[:, 0].astype(np.int64)))\n"
        "split = chained.piecewise(task, 0, role='owner').split\n"
        "blocks = split.shards.run(1, 1)\n"
        "copy = Copy(split.blueprint, blocks, np.zeros(72, np.float32), split.recipe(1))\n"
        "copy.backward(torch.zeros_like(copy.forward(torch.zeros(4, 8))))\n"
        "copy.step()\n"
        "print(sorted({'torch._dynamo', 'sympy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
