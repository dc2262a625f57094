"""A traced network in pieces: its recorded steps cut between blocks, where exactly one value passes.

The recording tells which step uses which parameter, so it tells where one block's steps end and the next one's begin,
and which values made before a cut are read behind it. One such value is an activation; two are a residual that spans
the cut, or a weight that two blocks share, and then the cut is refused. Knows steps, neither devices nor training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from p2pfusion.core.recording import Ref, refs
from p2pfusion.core.replay import Compiled, Inner, Program, Replay
from p2pfusion.core.scaler import Scaler
from p2pfusion.errors import TaskError

_FIX = "declare both as one block, or give the task a Blueprint"


class Section(Replay):
    """The steps of some blocks. What goes in and out is a batch, in the first dimension."""

    def forward(self, x: torch.Tensor) -> Any:
        """The input, or what the section before gives -> what this one gives."""
        out = super().forward(x)
        if not isinstance(out, torch.Tensor) or out.shape[:1] != x.shape[:1]:
            raise ValueError("what passes a cut is not one batch, sample by sample; move the cut or give a Blueprint")
        return out


def sections(network: Replay, block_of: Mapping[str, str], order: Sequence[str]) -> list[tuple[str, Section]]:
    """One per block, in order, with the network's own parameters. Raises `TaskError` for a cut that is not clean."""
    made = [Section() for _ in order]
    made[0].sizes = dict(network.sizes)
    for mode, program in network.programs.items():
        steps, counts = _parted(program[0])
        cuts = _cuts((steps, *program[1:]), block_of, order)
        bounds = [(0, 0), *cuts, (len(steps), -1)]
        for section, (start, entry), (stop, leaving) in zip(made, bounds, bounds[1:], strict=False):
            result = program[3] if leaving == -1 else Ref(leaving)
            section.entry[mode] = entry
            asked = [replace(step, args=(Ref(entry), 0), frees=()) for step in counts]
            _fill(section, network, block_of, mode, (asked + steps[start:stop], program[1], program[2], result))
    return list(zip(order, made, strict=True))


def _fill(section: Section, network: Replay, order: Iterable[str], mode: bool, program: Program) -> None:
    """Give the section the steps, and of parameters (in that order), constants and modules what they use."""
    steps, parameters, constants, result = program
    used = frozenset(ref.slot for step in steps for ref in refs((step.args, dict(step.kwargs))))
    held = {slot: name for slot, name in parameters.items() if slot in used}
    kept = {slot: name for slot, name in constants.items() if slot in used}
    paths = [step.function.path for step in steps if isinstance(step.function, Inner)]
    called = {path: network.get_submodule(path) for path in paths}
    outputs = {
        f"{path}.{name}": tensor for path, module in called.items() for name, tensor in module._parameters.items()
    }
    # In the network's own order, which is that of the values, not in the order of use.
    for name in order:
        if name in outputs or name in held.values():
            section.place(name, network.get_parameter(name), as_output=name in outputs)
    for name, tensor in outputs.items():
        if tensor is None:
            section.place(name, None, as_output=True)
    for name in kept.values():
        section.register_buffer(name, network.get_buffer(name), persistent=False)
    for path, module in called.items():
        if isinstance(module, Scaler):
            section.add_module(path, module)
    section.programs[mode] = (steps, held, kept, result)


def _cuts(program: Program, block_of: Mapping[str, str], order: Sequence[str]) -> list[tuple[int, int]]:
    """Between each two blocks the number of the step behind the cut, and the slot of the value that passes.

    Of a program without its questions for the batch's size.
    """
    steps, parameters, constants, result = program
    number = {name: place for place, name in enumerate(order)}
    blocks = [sorted({number[block_of[name]] for name in _names(step, parameters, block_of)}) for step in steps]
    fixed = parameters.keys() | constants.keys()
    found = []
    for place in range(1, len(order)):
        before = [step for step, used in enumerate(blocks) if used and used[0] < place]
        behind = [step for step, used in enumerate(blocks) if used and used[-1] >= place]
        pair = f"{order[place - 1]} and {order[place]}"
        if not before or not behind or before[-1] >= behind[0]:
            raise TaskError(
                f"model: the blocks {pair} cannot be parted, because the network does not use first all of one "
                f"and then all of the other; {_FIX}"
            )
        # Steps without parameters may stand on either side; the later, the more the block before finishes itself.
        for step in range(behind[0], before[-1], -1):
            passing = _passing(steps, step, result) - fixed
            if len(passing) == 1:
                found.append((step, passing.pop()))
                break
        else:
            raise TaskError(
                f"model: the blocks {pair} cannot be parted, because more than one value passes between them, as a "
                f"residual that spans them does; {_FIX}"
            )
    return found


def _parted(steps: Sequence[Compiled]) -> tuple[list[Compiled], list[Compiled]]:
    """Steps that compute, and those that ask how many samples the input has: every section can ask its own input.

    `x.shape` asks for every dimension; what nobody reads of it is in neither.
    """
    computing: list[Compiled] = []
    counts: list[Compiled] = []
    for step in steps:
        if step.function is not torch.Tensor.size or step.args[0] != Ref(0):
            computing.append(step)
        elif step.args[1] == 0:
            counts.append(step)
        elif step.out.slot not in step.frees:
            computing.append(step)
    return computing, counts


def _names(step: Compiled, parameters: Mapping[int, str], block_of: Mapping[str, str]) -> list[str]:
    """Parameters that a step uses, directly or in the module it calls."""
    names = [parameters[ref.slot] for ref in refs((step.args, dict(step.kwargs))) if ref.slot in parameters]
    if isinstance(step.function, Inner):
        names += [name for name in block_of if name.rpartition(".")[0] == step.function.path]
    return names


def _passing(steps: Sequence[Compiled], cut: int, result: object) -> set[int]:
    """Slots made in front of that step, or the input, that are read from there on."""
    made = {0} | {ref.slot for step in steps[:cut] for ref in refs(step.out)}
    read = {ref.slot for step in steps[cut:] for ref in refs((step.args, dict(step.kwargs)))}
    own = {ref.slot for step in steps[cut:] for ref in refs(step.out)}
    return made & ((read | {ref.slot for ref in refs(result)}) - (own - made))
