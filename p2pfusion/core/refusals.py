"""What no slice of a module could ever get right, all of it at once: each layer with its name, the reason and the fix.

Both ways of describing a module (`sequential`, `tracing`) ask before they run anything. Knows kinds of layers, neither
axes nor what a forward does with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from p2pfusion.errors import TaskError

LISTED_MAX = 8
"""Layers in one message: a network has many of a kind, and one fix does for all of them."""
STATISTICS = "statistics cannot be averaged across slices; use nn.GroupNorm or nn.LayerNorm"


def check_layers(module: nn.Module) -> None:
    """Raise one `TaskError` that names whatever can be seen without running the module, a line for each."""
    found = [*_layers(module), *_parameters(module)]
    if len(found) == 1:
        raise TaskError(found[0][1])
    if found:
        raise TaskError("\n  ".join(["model: cannot be sliced as it is", *_listed(found)]))


def _listed(found: list[tuple[str, str]]) -> list[str]:
    """As many as a message holds, in the order found; the first of a kind rather than the second of another."""
    seen = Counter[str]()
    turns = []
    for place, (kind, _) in enumerate(found):
        turns.append((seen[kind], place))
        seen[kind] += 1
    shown = sorted(place for _, place in sorted(turns)[:LISTED_MAX])
    more = len(found) - len(shown)
    return [found[place][1] for place in shown] + ([f"and {more} more"] if more else [])


def _layers(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Kind and line of every layer that cannot be sliced."""
    for path, part in module.named_modules():
        kind = type(part).__name__
        words = _words(part, kind)
        if words is not None:
            yield kind, f"{path or 'model'}: {words}"


def _words(layer: nn.Module, kind: str) -> str | None:
    """Why that layer cannot be sliced, and what to do; None where it can, as far as its kind tells."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return f"{kind} {STATISTICS}"
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        return (
            f"{kind} cannot be sliced automatically, because its gates stand in one weight, whose rows repeat the "
            f"hidden width; use attention or convolutions, or give the task a Blueprint"
        )
    return None


def _parameters(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The first parameter that cannot be one, for its fix is the whole model's."""
    for name, tensor in module.named_parameters():
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            yield "shape", f"{name}: has no shape yet; run the model once before it becomes a task"
            return
        if tensor.dtype != torch.float32:
            place = name.rpartition(".")[0] or name
            yield "dtype", f"{place}: parameters are {tensor.dtype}; convert the model with .float()"
            return
