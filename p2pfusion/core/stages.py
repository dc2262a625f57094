"""Consecutive blocks of a blueprint as networks of their own: the stages of a chain of hops.

A network that can be cut says which of its modules run one after the other, each taking what the one before gives: an
`nn.Sequential` by being one, a traced module by its steps (`sections`), any other by a method `chain`. A stage is a run
of these modules; nothing else of the network is ever given memory, so a device holds a stage of what it could not hold.
Between them flows one tensor, so whatever a residual spans is inside one, and a block moves as a whole.

What cannot be cut cleanly is refused with the reason and the fix. Knows blueprints and modules; no training, no peers.
Source: PAPERS.md 3.1 (parts of a model), ours: the seam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint, ModuleSpec
from p2pfusion.core.replay import Replay
from p2pfusion.core.sections import Section, sections
from p2pfusion.core.sequential import is_sequential
from p2pfusion.core.submodel import SubModel, Vector, layout
from p2pfusion.core.training import loaded
from p2pfusion.errors import TaskError


@runtime_checkable
class Chained(Protocol):
    """A network whose forward is nothing but these modules, one after the other."""

    def chain(self) -> Sequence[str]:
        """Their paths, in order; together they hold every parameter."""
        ...


class StageNetwork(nn.Module):
    """Runs its modules in order. `blocks`: what it holds, in order; `names`: the blueprint's, of its parameters."""

    def __init__(self, blocks: tuple[str, ...], pieces: Sequence[nn.Module], names: tuple[str, ...]) -> None:
        super().__init__()
        self.blocks, self.names = blocks, names
        self.pieces = nn.ModuleList(pieces)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's input, or what the block before gives -> what the last block here gives."""
        for piece in self.pieces:
            x = piece(x)
        return x


@dataclass(frozen=True, slots=True)
class _Piece:
    """One module of the chain, without values: the block it belongs to, and its parameters by their name in it."""

    path: str
    block: str
    module: nn.Module
    names: Mapping[str, str]
    """Name in the module -> the parameter's name in the blueprint, which for a tied one is another module's."""


def cut(blueprint: Blueprint, runs: Sequence[Sequence[str]], values: Vector) -> list[StageNetwork]:
    """The stages that one device holds, one per run of consecutive blocks, in training mode on the CPU.

    `values`: of `held(blueprint, runs)`, flat float32, copied. Tied parameters are one tensor, also between two stages
    of the device. Raises `TaskError` for a network or a cut that is not clean, `ValueError` for blocks out of order or
    values of another size.
    """
    sub_model = held(blueprint, runs)
    pieces = _pieces(blueprint)
    places = layout(blueprint, sub_model)
    if len(values) != sub_model.size(blueprint):
        raise ValueError(f"{len(values)} values for stages of {sub_model.size(blueprint)}")
    _check_ties(pieces, sub_model.blocks)
    stages = _filled(pieces, runs, {name: (values[span].copy(), shape) for name, (span, shape) in places.items()})
    if list(dict.fromkeys(name for stage in stages for name in stage.names)) != list(places):
        raise TaskError("blueprint: the factory's parts hold their parameters in another order than it declares")
    return stages


Drawn = Callable[[str], Vector]
"""Name of a parameter -> its values, flat float32, the caller's to keep: for models that nobody has in memory."""


def one_by_one(blueprint: Blueprint, values: Vector | Drawn) -> Iterator[StageNetwork]:
    """Every block by itself, in order, to measure it; `values` are the whole model's. A tied parameter is a copy here.

    Each is forgotten before the next is made: whoever lets go of it too has one in memory. Raises `TaskError` as `cut`.
    """
    places = layout(blueprint, blueprint.whole())
    drawn: Drawn = values if callable(values) else lambda name: values[places[name][0]].copy()
    pieces = _pieces(blueprint)
    for block in blueprint.blocks:
        needed = dict.fromkeys(name for piece in pieces if piece.block == block for name in piece.names.values())
        found = {name: (drawn(name), places[name][1]) for name in needed}
        yield _filled(pieces, [[block]], found)[0]
        del found
        pieces = [piece for piece in pieces if piece.block != block]


def check_chain(blueprint: Blueprint, values: Vector, x: torch.Tensor) -> None:
    """Raise `TaskError` unless the chain, block by block, computes what the network does; `x`: a batch of its inputs.

    A method `chain` is believed nowhere else. `values`: the whole model's. In evaluation, for dropout draws anew.
    """
    out, given = x, x
    with torch.no_grad():
        for module in one_by_one(blueprint, values):
            out = module.eval()(out)
            del module  # before the next one is made
        expected = loaded(blueprint, blueprint.whole(), values).eval()(given)
    if out.shape != expected.shape or not torch.allclose(out, expected, rtol=1e-4, atol=1e-5):
        raise TaskError(
            "model: run block by block it gives another output than as a whole; let chain() name the modules that "
            "forward runs, in order, and let forward do nothing else"
        )


def ties(blueprint: Blueprint) -> tuple[tuple[str, ...], ...]:
    """Groups of blocks that share a parameter: whoever holds one must hold all. Builds the network without memory.

    Raises `TaskError` as `cut`.
    """
    return tuple(dict.fromkeys(blocks for blocks in _users(_pieces(blueprint)).values() if len(blocks) > 1))


def held(blueprint: Blueprint, runs: Sequence[Sequence[str]]) -> SubModel:
    """What a device with these stages holds. Raises `ValueError` unless each is a run of the blueprint's blocks."""
    order = {name: place for place, name in enumerate(blueprint.blocks)}
    for run in runs:
        places = [order.get(name, -2) for name in run]
        if not places or -2 in places or places != list(range(places[0], places[0] + len(places))):
            raise ValueError(f"{list(run)}: not consecutive blocks of the model")
    sub_model = SubModel(tuple(name for run in runs for name in run))
    sub_model.validate(blueprint)
    return sub_model


def _pieces(blueprint: Blueprint) -> list[_Piece]:
    """The chain, on torch's meta device: names and shapes that take no memory. Raises `TaskError`."""
    if len(blueprint.members) > 1:
        raise TaskError("model: several networks side by side cannot be cut into stages; plan for the task's own model")
    full = {axis.name: axis.size for axis in blueprint.axes}
    with torch.device("meta"):
        network = blueprint.factory(ModuleSpec(blueprint.blocks, full, full))
    first = {id(tensor): name for name, tensor in network.named_parameters()}
    blocks = {parameter.name: parameter.block for parameter in blueprint.parameters}
    pieces: list[_Piece] = []
    begun: list[_Piece] = []
    for path, module in _parts(network, blocks, blueprint.blocks):
        names = {name: first[id(tensor)] for name, tensor in module.named_parameters(remove_duplicate=False)}
        own = dict.fromkeys(blocks[name] for name in names.values() if name.startswith(f"{path}."))
        if isinstance(module, Section):
            own = {path: None}
        if len(own) > 1:
            raise TaskError(f"model: {path} holds the blocks {' and '.join(own)}; let each be a part of the chain")
        # What has no parameters goes with the block before it; in front of the first block, with that one.
        block = next(iter(own), pieces[-1].block if pieces else "")
        begun.append(_Piece(path, block, module, names))
        if block:
            pieces += [_Piece(one.path, block, one.module, one.names) for one in begun]
            begun = []
    _check_chain(blueprint, pieces, frozenset(first.values()))
    return pieces


def _parts(network: nn.Module, blocks: Mapping[str, str], order: Sequence[str]) -> Sequence[tuple[str, nn.Module]]:
    """What runs one after the other, each with its path, a section of a traced network with its block."""
    if isinstance(network, Replay):
        return sections(network, blocks, order)
    if isinstance(network, Chained):
        return [(path, network.get_submodule(path)) for path in network.chain()]
    if is_sequential(network):
        return [(path, network.get_submodule(path)) for path in _leaves(network, "")]
    raise TaskError(
        "model: cannot be cut into stages, because its network does not say which of its parts run one after the "
        "other; give the network of the Blueprint a method chain(), or make it an nn.Sequential"
    )


def _leaves(module: nn.Sequential, prefix: str) -> Iterator[str]:
    # Not named_children: it would name an activation that stands in two places once.
    for name, child in module._modules.items():
        if child is None:
            continue
        if is_sequential(child):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _check_chain(blueprint: Blueprint, pieces: Sequence[_Piece], names: frozenset[str]) -> None:
    """Every parameter is somewhere, and blocks follow each other as the blueprint says."""
    missing = sorted(names.difference(name for piece in pieces for name in piece.names.values()))
    if missing:
        raise TaskError(f"model: {missing[0]} is in no part of the chain; let chain() name the module that holds it")
    order = [block for block, before in _neighbours([piece.block for piece in pieces]) if block != before]
    if order != list(blueprint.blocks):
        raise TaskError(
            f"model: its parts run through the blocks {', '.join(order)}, but the blueprint lists them as "
            f"{', '.join(blueprint.blocks)}; a block must be one run of parts, in order"
        )


def _neighbours(items: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each with the one before it."""
    return zip(items, [None, *items[:-1]], strict=True)


def _users(pieces: Sequence[_Piece]) -> dict[str, tuple[str, ...]]:
    """By parameter the blocks that use it, in order."""
    users: dict[str, dict[str, None]] = {}
    for piece in pieces:
        for name in piece.names.values():
            users.setdefault(name, {})[piece.block] = None
    return {name: tuple(blocks) for name, blocks in users.items()}


def _check_ties(pieces: Sequence[_Piece], blocks: Sequence[str]) -> None:
    """Whoever holds one place of a tied parameter must hold all."""
    for name, together in _users(pieces).items():
        inside = [block for block in together if block in blocks]
        if inside and len(inside) < len(together):
            raise TaskError(
                f"model: the blocks {' and '.join(together)} share {name}, and a cut would part them; let the owner "
                f"keep them all, as its first and last blocks, or untie them (gpt(..., tied=False))"
            )


def _filled(
    pieces: Sequence[_Piece], runs: Sequence[Sequence[str]], values: Mapping[str, tuple[Vector, tuple[int, ...]]]
) -> list[StageNetwork]:
    """The runs' modules with these values as real parameters, in place of those without memory."""
    made: dict[str, nn.Parameter] = {}
    stages = []
    for run in runs:
        mine = [piece for piece in pieces if piece.block in run]
        for piece in mine:
            for inner, name in piece.names.items():
                if name not in made:
                    made[name] = _real(piece.module.get_parameter(inner), *values[name])
                owner, _, leaf = inner.rpartition(".")
                piece.module.get_submodule(owner)._parameters[leaf] = made[name]
            _check_buffers(piece)
        names = tuple(dict.fromkeys(name for piece in mine for name in piece.names.values()))
        stages.append(StageNetwork(tuple(run), [piece.module for piece in mine], names).train())
    return stages


def _real(empty: nn.Parameter, values: Vector, shape: tuple[int, ...]) -> nn.Parameter:
    if tuple(empty.shape) != shape:
        raise TaskError(f"blueprint: the factory built {tuple(empty.shape)} instead of {shape}")
    return nn.Parameter(torch.from_numpy(values).view(shape), requires_grad=empty.requires_grad)


def _check_buffers(piece: _Piece) -> None:
    for name, buffer in piece.module.named_buffers():
        if buffer.is_meta:
            raise TaskError(
                f"model: {piece.path}.{name} is a buffer, which only the whole network could fill; "
                f"compute it in forward"
            )
