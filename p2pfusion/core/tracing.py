"""`blueprint_of_module`: an ordinary `nn.Module` described, so that its owner declares no axis by hand.

Why not torch.fx or Torch-Pruning: fx's symbols fail where forward branches on a size, and a traced graph keeps the full
network's sizes; Torch-Pruning cuts a module once and leaves the sizes in its forward to the user. We record one real
run instead (`recorder`), join the dimensions that are one (`flows`, `tracing_walk` and its rules), and replay it with
each slice's sizes (`replay`).

What cannot be sliced stays whole and is listed among the blueprint's `findings`, with the reason, and so is what
forward never reads: a traced network has no exits, for only what forward returns is known. What can never be right is
refused by name (`refusals`). Nothing is believed: `tracing_checks` compares the result with the module itself.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, ModuleSpec, Parameter
from p2pfusion.core.flows import Classes, Part
from p2pfusion.core.recorder import record
from p2pfusion.core.refusals import check_layers
from p2pfusion.core.replay import Replay, Resolved, Span
from p2pfusion.core.tracing_batches import for_any_batch
from p2pfusion.core.tracing_checks import check
from p2pfusion.core.tracing_rules import RULES
from p2pfusion.core.tracing_walk import Walk, owner
from p2pfusion.errors import TaskError

EXAMPLE = 2
"""Samples of the example that are run: two, so that the batch differs from what is of extent 1; then one more."""
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FIX = "give the task a Blueprint"


def blueprint_of_module(module: nn.Module, example: torch.Tensor) -> Blueprint:
    """Describe `module`; `example` is a batch of its inputs (batch first; the values do not matter).

    Neither the module nor torch's random numbers change. Raises `TaskError` for what cannot be sliced or run, with
    name, reason and fix.
    """
    check_layers(module)
    if not any(True for _ in module.parameters()):
        raise TaskError("model: there is no parameter to train")
    if not isinstance(example, torch.Tensor) or example.dim() < 1 or not example.numel():
        raise TaskError("example: must be a batch of the network's inputs, as one tensor")
    x = torch.cat([example.detach()] * 2)[:EXAMPLE]
    with torch.random.fork_rng(devices=[]):
        own = _copied(module)
        traced = _trace(own, x)
        blueprint = _blueprint(own, traced)
        tied = check(own, x, blueprint, frozenset(traced.mixed))
    return _tied(blueprint, tied) if tied else blueprint


def _tied(blueprint: Blueprint, sizes: Mapping[int, int]) -> Blueprint:
    """The same for inputs of the example's size only, in these dimensions; another size is refused when it comes."""
    inner = blueprint.factory

    def factory(spec: ModuleSpec) -> nn.Module:
        network = inner(spec)
        assert isinstance(network, Replay)
        network.sizes = dict(sizes)
        return network

    said = ", ".join(f"{size} in dimension {place}" for place, size in sizes.items())
    finding = f"inputs: always {said}, because forward makes a plain int of it"
    return replace(blueprint, factory=factory, findings=(*blueprint.findings, finding))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """Both walks, and what the classes came to."""

    walks: Mapping[bool, Walk]
    classes: Classes
    names: Mapping[str, str]
    """Root of a class that is sliced -> its axis."""
    findings: tuple[str, ...]
    mixed: tuple[str, ...]

    def span_of(self, part: Part) -> Span | None:
        """The axis of a dimension; None where it is not sliced."""
        root = self.classes.find(part)
        name = self.names.get(root.key)
        return None if name is None else (name, root.span)


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise TaskError(f"model: cannot be copied ({error}); {_FIX}") from error


def _trace(module: nn.Module, x: torch.Tensor) -> _Traced:
    classes = Classes()
    shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
    walks = {}
    more = torch.cat([x, x[:1]])
    for mode in (False, True):
        module.train(mode)
        recording = for_any_batch(record(module, x), record(module, more), (len(x), len(more)))
        walk = Walk(recording, classes, shapes)
        walk.run(RULES)
        walks[mode] = walk
    producers = walks[False].producers | walks[True].producers
    names = _names(classes, producers)
    mixed = tuple(name for key, name in names.items() if classes.of(Part(key)).is_mixed)
    findings = (*_findings(classes, producers), *_unread(shapes, walks[True].recording.parameters.values()))
    return _Traced(walks=walks, classes=classes, names=names, findings=findings, mixed=mixed)


def _names(classes: Classes, producers: Mapping[str, str]) -> dict[str, str]:
    """Classes that become axes, each named after the first layer whose outputs they are."""
    names: dict[str, str] = {}
    # Of key heads that several query heads share, the axis counts the entries: they name it.
    for key, name in sorted(producers.items(), key=lambda item: classes.find(Part(item[0])).span):
        root, found = classes.find(Part(key)), classes.of(Part(key))
        if not found.whole and found.unit < found.size:
            names.setdefault(root.key, name)
    return names


def _findings(classes: Classes, producers: Mapping[str, str]) -> tuple[str, ...]:
    """What stays whole, and why, the places with one reason in one line."""
    places: dict[str, list[str]] = {}
    for key, name in producers.items():
        found = classes.of(Part(key))
        if found.whole and found.reason is not None:
            places.setdefault(found.reason, []).append(name)
        elif not found.whole and found.unit >= found.size:
            places.setdefault("its units are as large as it is", []).append(name)
    return tuple(f"{_list(names)}: whole, because {reason}" for reason, names in places.items())


def _unread(parameters: Iterable[str], read: Iterable[str]) -> tuple[str, ...]:
    """What no training reads, such as the heads of a network that can also answer early, in one line."""
    used = dict.fromkeys(read)
    lived_in = {name[:end] for name in used for end, sign in enumerate(name) if sign == "."}
    idle = dict.fromkeys(_outermost(name, lived_in) for name in parameters if name not in used)
    return (f"{_list(list(idle))}: never trained, because forward does not read it while training",) if idle else ()


def _outermost(parameter: str, lived_in: Collection[str]) -> str:
    """The largest module with that parameter of which nothing is read; else the parameter itself."""
    ends = [end for end, sign in enumerate(parameter) if sign == "."]
    return next((parameter[:end] for end in ends if parameter[:end] not in lived_in), parameter)


def _list(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _blueprint(module: nn.Module, traced: _Traced) -> Blueprint:
    axes = {
        name: Axis(name, traced.classes.of(Part(key)).size, traced.classes.of(Part(key)).unit)
        for key, name in traced.names.items()
    }
    parameters = tuple(
        Parameter(name, _block(module, name), _dims(traced, name), _init(traced, name, tensor))
        for name, tensor in module.named_parameters()
    )
    used = {dim.axis for parameter in parameters for dim in parameter.dims}
    output = _output_layer(module, [walk.output_layer for walk in traced.walks.values()])
    return Blueprint(
        tuple(dict.fromkeys(parameter.block for parameter in parameters)),
        tuple(axis for axis in axes.values() if axis.name in used),
        parameters,
        _Factory(_Skeleton.of(module), traced, output),
        output_layer=output,
        findings=traced.findings,
    )


def _output_layer(module: nn.Module, paths: list[str | None]) -> str | None:
    """The last layer, where it is an `nn.Linear` in both modes."""
    path = paths[0]
    is_linear = path and type(module.get_submodule(path)) is nn.Linear
    return path if is_linear and paths.count(path) == len(paths) else None


def _dims(traced: _Traced, name: str) -> tuple[Dim, ...]:
    walk = traced.walks[True]
    return tuple(_dim(traced, part, size) for part, size in zip(walk.open(name), walk.shapes_of[name], strict=True))


def _dim(traced: _Traced, part: Part | None, size: int) -> Dim:
    span = None if part is None else traced.span_of(part)
    return Dim(None, size) if span is None else Dim(span[0], int(span[1]))


def _init(traced: _Traced, name: str, tensor: torch.Tensor) -> Init:
    """How genesis fills it: norms as torch does, what the owner set to one number that number, the rest by fan-in."""
    walk = traced.walks[True]
    if name in walk.constants:
        return Init(None, walk.constants[name])
    first = float(tensor.detach().flatten()[0])
    if bool((tensor.detach() == first).all()) and (tensor.numel() > 1 or first in (0.0, 1.0)):
        return Init(None, first)
    fan = walk.fans.get(name, ((name, tensor.dim() - 1),))
    return Init(tuple(_dims(traced, weight)[place] for weight, place in fan))


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """Names, ties and which parameters train: all that a factory needs to know of the module."""

    places: tuple[tuple[str, str | None], ...]
    """Path of each place -> the parameter that stands there, by its first name; None: a missing bias."""
    trains: Mapping[str, bool]

    @classmethod
    def of(cls, module: nn.Module) -> _Skeleton:
        """Everything in the order in which the module registers it."""
        first = {id(tensor): name for name, tensor in module.named_parameters()}
        places: list[tuple[str, str | None]] = []
        for path, part in module.named_modules():
            for name, tensor in part._parameters.items():
                places.append((f"{path}.{name}".lstrip("."), None if tensor is None else first[id(tensor)]))
        return cls(tuple(places), {name: tensor.requires_grad for name, tensor in module.named_parameters()})


@dataclass(frozen=True, slots=True)
class _Factory:
    """Builds the narrow network of a traced module."""

    skeleton: _Skeleton
    traced: _Traced
    output: str | None

    def __call__(self, spec: ModuleSpec) -> nn.Module:
        resolved = Resolved(self.traced.span_of, spec.widths, spec.rate)
        network = Replay()
        made: dict[str, nn.Parameter] = {}
        for place, name in self.skeleton.places:
            if name is not None and name not in made:
                made[name] = nn.Parameter(torch.empty(self._shape(name, resolved)), self.skeleton.trains[name])
            network.place(place, None if name is None else made[name], as_output=owner(place) == self.output)
        for mode, walk in self.traced.walks.items():
            network.add(mode, walk.recording, walk.plan, resolved, self.output)
        return network

    def _shape(self, name: str, resolved: Resolved) -> tuple[int, ...]:
        walk = self.traced.walks[True]
        parts = zip(walk.open(name), walk.shapes_of[name], strict=True)
        return tuple(
            size if part is None or (width := resolved.extent(part)) is None else width for part, size in parts
        )


def _block(module: nn.Module, parameter: str) -> str:
    """The block of a parameter: one member of a list of layers, or the nearest module that holds no lists itself."""
    path: list[str] = []
    inside = module
    for name in owner(parameter).split(".") if owner(parameter) else ():
        is_member = isinstance(inside, nn.Sequential | nn.ModuleList) and inside is not module
        inside = inside.get_submodule(name)
        path.append(name)
        is_list = isinstance(inside, _LISTS)
        if not is_list and (is_member or not _holds_lists(inside)):
            break
    return ".".join(path) or parameter


def _holds_lists(module: nn.Module) -> bool:
    return any(isinstance(part, _LISTS) for part in module.modules())
