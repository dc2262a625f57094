"""Rules of functions that only move things about: view, transpose, split, cat, indexing.

The hard one is `view`: into heads and back, or flattening an image. A group of input dimensions becomes a group of
output dimensions; a sliced one stays sliced where it is the outermost of its group on both sides, and its span follows
by arithmetic. Everything else would interleave kept and removed entries, and keeps the dimension whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from p2pfusion.core.flows import Flow, Part
from p2pfusion.core.tracing_walk import Call, Extent, Rule, Walk, product, sized

_INTERLEAVED = "a view mixes it with other dimensions"
_COMPUTED = "forward computes with its width"


def regroup(walk: Walk, flow: Flow, shape: tuple[int, ...], out: tuple[int, ...]) -> Flow:
    """What flows out of a view from `shape` to `out`."""
    result: list[Part | None] = [None] * len(out)
    for ins, outs in _groups(shape, out):
        sliced = [place for place in ins if flow[place] is not None]
        if not sliced:
            continue
        part = flow[ins[0]]
        if sliced != ins[:1] or part is None:
            walk.classes.keep_whole((flow[place] for place in sliced), _INTERLEAVED)
            continue
        inner, behind = product(shape[place] for place in ins[1:]), product(out[place] for place in outs[1:])
        result[outs[0]] = walk.classes.spanning(part, part.span * inner / behind)
    return tuple(result)


def _groups(shape: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest groups of dimensions on both sides with as many entries; those of extent 1 are left out."""
    left, right = list(sized(shape)), list(sized(out))
    while left:
        ins, outs = [left.pop(0)], [right.pop(0)]
        while (here := product(shape[place] for place in ins)) != (there := product(out[place] for place in outs)):
            if here < there:
                ins.append(left.pop(0))
            else:
                outs.append(right.pop(0))
        yield ins, outs


def _view(walk: Walk, call: Call) -> Any:
    """view(x, *sizes) or (x, sizes), reshape alike."""
    given = call.args[1:] or [call.kwargs.get("size", call.kwargs.get("shape"))]
    if isinstance(given[0], torch.dtype) or given[0] is None:
        return walk.keep_whole(call, "a view as another type")
    sizes = tuple(given[0]) if isinstance(given[0], tuple | list) else tuple(given)
    ref, out = call.get(0, "input"), walk.out_shape(call)
    flow = regroup(walk, walk.flow(ref), walk.shape(ref), out)
    call.args, call.kwargs = [call.args[0], _sizes(walk, call, sizes, flow)], {}
    return flow


def _sizes(walk: Walk, call: Call, sizes: tuple[Any, ...], flow: Flow) -> tuple[Any, ...]:
    """Sizes of a view, each as what a narrow network needs there."""
    call.numbers_are_done = True
    found = []
    for size, part in zip(sizes, flow, strict=True):
        plain = walk.bake(size, _COMPUTED)
        found.append(plain if part is None else Extent(part, plain))
    return tuple(found)


def _view_as(walk: Walk, call: Call) -> Any:
    ref = call.get(0, "input")
    flow = regroup(walk, walk.flow(ref), walk.shape(ref), walk.out_shape(call))
    other = walk.flow(call.get(1, "other"))
    return tuple(
        None if left is None and right is None else walk.classes.meet(left, right, _INTERLEAVED)
        for left, right in zip(flow, other, strict=True)
    )


def _flatten(walk: Walk, call: Call) -> Flow:
    ref = call.get(0, "input")
    return regroup(walk, walk.flow(ref), walk.shape(ref), walk.out_shape(call))


def _unflatten(walk: Walk, call: Call) -> Flow:
    flow = _flatten(walk, call)
    dim, sizes = call.get(1, "dim"), call.get(2, "sizes")
    place = dim % len(walk.shape(call.get(0, "input")))
    call.put(2, "sizes", _sizes(walk, call, tuple(sizes), flow[place : place + len(sizes)]))
    return flow


def _expand(walk: Walk, call: Call) -> Flow:
    ref = call.get(0, "input")
    given = call.args[1:]
    sizes = tuple(given[0]) if isinstance(given[0], tuple | list) else tuple(given)
    flow, missing = walk.flow(ref), len(sizes) - len(walk.shape(ref))
    flow = (None,) * missing + flow
    call.args = [call.args[0], _sizes(walk, call, sizes, flow)]
    return flow


def _transpose(walk: Walk, call: Call) -> Flow:
    flow = list(walk.flow(call.get(0, "input")))
    _note_weight(walk, call)
    first, second = call.get(1, "dim0"), call.get(2, "dim1")
    if first is None:
        first, second = call.kwargs["axis0"], call.kwargs["axis1"]
    flow[first], flow[second] = flow[second], flow[first]
    return tuple(flow)


def _note_weight(walk: Walk, call: Call) -> None:
    if walk.is_weight(call.get(0, "input")):
        walk.weights.update(ref.slot for ref in walk.outs(call))


def _permute(walk: Walk, call: Call) -> Flow:
    flow = walk.flow(call.get(0, "input"))
    given = call.args[1:] or [call.kwargs["dims"]]
    dims = given[0] if isinstance(given[0], tuple | list) else given
    return tuple(flow[place] for place in dims)


def _turn(walk: Walk, call: Call) -> Flow:
    """.T, .mT and t()."""
    _note_weight(walk, call)
    flow = walk.flow(call.get(0, "input"))
    return (*flow[:-2], *reversed(flow[-2:])) if call.step.name in ("mT", "t") else tuple(reversed(flow))


def _unsqueeze(walk: Walk, call: Call) -> Flow:
    flow = list(walk.flow(call.get(0, "input")))
    flow.insert(call.get(1, "dim") % (len(flow) + 1), None)
    return tuple(flow)


def _cat(walk: Walk, call: Call) -> Any:
    """Dimensions beside the joint must be one; the joint is made of several, so none of them is an axis."""
    refs, dim = call.get(0, "tensors"), call.get(1, "dim", 0)
    flows = [walk.flow(ref) for ref in refs]
    if len({len(flow) for flow in flows}) != 1:
        return walk.keep_whole(call, "concatenated with others")
    joint = dim % len(flows[0])
    walk.classes.keep_whole((flow[joint] for flow in flows), "concatenated with others: two axes cannot be one input")
    met = _beside(walk, flows, joint)
    return (*met[:joint], None, *met[joint + 1 :])


def _stack(walk: Walk, call: Call) -> Flow:
    refs, dim = call.get(0, "tensors"), call.get(1, "dim", 0)
    flows = [walk.flow(ref) for ref in refs]
    met = list(_beside(walk, flows, None))
    met.insert(dim % (len(met) + 1), None)
    return tuple(met)


def _beside(walk: Walk, flows: list[Flow], joint: int | None) -> Flow:
    met: list[Part | None] = []
    for place, parts in enumerate(zip(*flows, strict=True)):
        is_free = place == joint or all(part is None for part in parts)
        met.append(None if is_free else walk.meet_all(parts, "concatenated with something that cannot be sliced"))
    return tuple(met)


def _split(walk: Walk, call: Call) -> list[Flow]:
    name = call.step.name.strip("_")
    flow, dim = walk.flow(call.get(0, "input")), call.get(2 if name != "unbind" else 1, "dim", 0)
    place = dim % len(flow)
    if flow[place] is not None:
        walk.classes.keep_whole((flow[place],), f"its pieces become different things ({name})")
    rest = (*flow[:place], None, *flow[place + 1 :])
    out = (*flow[:place], *flow[place + 1 :]) if name == "unbind" else rest
    return [out for _ in walk.outs(call)]


def _index(walk: Walk, call: Call) -> Any:
    """x[...]: a dimension that is taken whole flows on; one that is cut stays whole."""
    flow, index = walk.flow(call.args[0]), call.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    lists = [item for item in items if isinstance(item, list) or walk.is_tensor(item)]
    if len(lists) > 1 or any(walk.is_tensor(item) and len(walk.shape(item)) != 1 for item in lists):
        return walk.keep_whole(call, "it is indexed by a tensor")
    used = sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis not in [item for item in items if not walk.is_tensor(item)]:
        items.append(Ellipsis)
    result: list[Part | None] = []
    place = 0
    for item in items:
        if item is None:
            result.append(None)
        elif item is Ellipsis:
            result.extend(flow[place : place + len(flow) - used])
            place += len(flow) - used
        else:
            result.extend(_taken(walk, flow[place], item))
            place += 1
    return tuple(result)


def _taken(walk: Walk, part: Part | None, item: Any) -> list[Part | None]:
    if item == slice(None):
        return [part]
    walk.classes.keep_whole((part,), "only some of it is used")
    return [] if isinstance(item, int) or not (isinstance(item, list | slice) or walk.is_tensor(item)) else [None]


def _repeat_interleave(walk: Walk, call: Call) -> Any:
    flow, times, dim = walk.flow(call.get(0, "input")), call.get(1, "repeats"), call.get(2, "dim")
    if not isinstance(times, int) or dim is None:
        return walk.keep_whole(call, "it is repeated")
    place = dim % len(flow)
    part = flow[place]
    repeated = None if part is None else walk.classes.spanning(part, part.span * times)
    return (*flow[:place], repeated, *flow[place + 1 :])


def _squeeze(walk: Walk, call: Call) -> Flow:
    ref, out = call.get(0, "input"), walk.out_shape(call)
    return regroup(walk, walk.flow(ref), walk.shape(ref), out)


def _pad(walk: Walk, call: Call) -> Flow:
    flow, pad = walk.flow(call.get(0, "input")), call.get(1, "pad")
    count = len(pad) // 2
    walk.classes.keep_whole(flow[len(flow) - count :], "padding lengthens it")
    return flow


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("view_as", "reshape_as"), _view_as),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    **dict.fromkeys(("T", "mT", "t"), _turn),
    **dict.fromkeys(("split", "chunk", "tensor_split", "unbind", "split_with_sizes"), _split),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "flatten": _flatten,
    "unflatten": _unflatten,
    "expand": _expand,
    "permute": _permute,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "stack": _stack,
    "getitem": _index,
    "repeat_interleave": _repeat_interleave,
    "pad": _pad,
}
