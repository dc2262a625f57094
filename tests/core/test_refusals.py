"""Everything that a module would be refused for stands in one message: name, reason and fix, a line for each layer."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.refusals import LISTED_MAX, check_layers
from p2pfusion.errors import TaskError

NORM = "statistics cannot be averaged across slices; use nn.GroupNorm or nn.LayerNorm"


class Several(nn.Module):
    """Layers by name; its forward is never reached."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def refused(module: nn.Module) -> list[str]:
    with pytest.raises(TaskError) as caught:
        Blueprint.from_module(module, torch.zeros(2, 4))
    return str(caught.value).splitlines()


def test_all_layers_are_named_at_once() -> None:
    lines = refused(
        Several(
            a=nn.Linear(4, 8), bn1=nn.BatchNorm1d(8), inside=Several(bn2=nn.BatchNorm2d(8)), rnn=nn.LSTM(8, 8),
            short=nn.Linear(8, 8).half(), out=nn.Linear(8, 2).half(),
        )
    )  # fmt: skip
    gates = "because its gates stand in one weight, whose rows repeat the hidden width"
    assert lines == [
        "model: cannot be sliced as it is",
        f"  bn1: BatchNorm1d {NORM}",
        f"  inside.bn2: BatchNorm2d {NORM}",
        f"  rnn: LSTM cannot be sliced automatically, {gates}; "
        "use attention or convolutions, or give the task a Blueprint",
        "  short: parameters are torch.float16; convert the model with .float()",
    ]


def test_a_sequential_says_the_same_of_layers_deep_inside() -> None:
    layers = OrderedDict(bn=nn.BatchNorm1d(4), cell=nn.GRUCell(4, 4), part=Several(bn=nn.SyncBatchNorm(4)))
    _, *lines = refused(nn.Sequential(layers))
    assert [line.split(" ")[2:4] for line in lines] == [
        ["bn:", "BatchNorm1d"],
        ["cell:", "GRUCell"],
        ["part.bn:", "SyncBatchNorm"],
    ]


def test_one_layer_is_one_line() -> None:
    assert refused(nn.BatchNorm1d(4)) == [f"model: BatchNorm1d {NORM}"]
    assert refused(Several(lazy=nn.LazyLinear(3))) == [
        "lazy.weight: has no shape yet; run the model once before it becomes a task"
    ]


@pytest.mark.parametrize("norms", [LISTED_MAX - 1, LISTED_MAX])
def test_a_message_has_a_limit_and_shows_one_of_every_kind(norms: int) -> None:
    names = [f"bn{number}" for number in range(norms)]
    _, *lines = refused(Several(**{name: nn.BatchNorm1d(4) for name in names}, rnn=nn.GRU(4, 4)))
    assert [line.split(":")[0].strip() for line in lines[:LISTED_MAX]] == [*names[: LISTED_MAX - 1], "rnn"]
    assert lines[LISTED_MAX:] == (["  and 1 more"] if norms == LISTED_MAX else [])


def test_what_can_be_sliced_is_let_through() -> None:
    unread = nn.InstanceNorm1d(8, track_running_stats=True)  # where it is read, tracing refuses it
    check_layers(Several(a=nn.Linear(4, 8), n=unread, g=nn.GroupNorm(2, 8)))
