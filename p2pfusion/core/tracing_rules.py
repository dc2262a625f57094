"""Rules of layers: what torch's functions with parameters, and attention, do to axes.

A rule sees a `Call` within a `Walk`: it joins the dimensions that are one, says what flows on, and marks what a narrow
network must do differently. A rule that knows better keeps dimensions whole, with the reason; what can never be right
is refused by name. `tracing_pointwise` and `tracing_shapes` have the functions without
parameters.
"""

from __future__ import annotations

from typing import Any

from p2pfusion.core.flows import Flow, Part
from p2pfusion.core.refusals import STATISTICS
from p2pfusion.core.tracing_pointwise import MEETS_FIXED, POINTWISE, broadcast, joined
from p2pfusion.core.tracing_shapes import SHAPES
from p2pfusion.core.tracing_walk import Call, Extent, Rule, Walk
from p2pfusion.errors import TaskError


def _linear(walk: Walk, call: Call) -> Flow:
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    return _affine(walk, call, (0, "input"), (weight, 1, 0), bias, x_flow=walk.flow(x))


def _affine(
    walk: Walk, call: Call, place: tuple[int, str], weight: tuple[Any, int, int], bias: Any, *, x_flow: Flow
) -> Flow:
    """x @ W + b: sums over x's last dimension, which is W's dimension `into`; `out` is what comes out."""
    ref, into, out = weight
    flow = walk.flow(ref)
    summed = walk.classes.meet(x_flow[-1], flow[into], MEETS_FIXED)
    walk.scale(call, *place, summed)
    made = flow[out]
    if walk.is_tensor(bias):
        made = walk.classes.meet(walk.flow(bias)[-1], made, MEETS_FIXED)
    walk.produces(ref, out)
    walk.starts(ref, (into,), bias)
    walk.output_layer = call.step.where if call.step.name == "linear" else None
    return (*x_flow[:-1], made)


def _addmm(walk: Walk, call: Call) -> Flow:
    x = call.get(1, "mat1")
    return _affine(walk, call, (1, "mat1"), (call.get(2, "mat2"), 0, 1), call.get(0, "input"), x_flow=walk.flow(x))


def _matmul(walk: Walk, call: Call) -> Any:
    x, other = call.get(0, "input"), call.get(1, "other", call.kwargs.get("mat2"))
    left, right = walk.flow(x), walk.flow(other)
    if walk.is_weight(other) and len(right) == 2:
        return _affine(walk, call, (0, "input"), (other, 0, 1), None, x_flow=left)
    if len(left) < 2 or len(right) < 2:
        return walk.keep_whole(call, "a product with a vector")
    summed = walk.meet_all((left[-1], right[-2]), MEETS_FIXED)
    walk.classes.keep_whole((summed,), "a matrix product of two activations sums over it")
    lead = broadcast(walk, [x, other], walk.out_shape(call)[:-2], 2)
    return (*lead, left[-2], right[-1])


def _conv(walk: Walk, call: Call) -> Flow:
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    into, kernel = walk.flow(x), walk.flow(weight)
    spatial = len(kernel) - 2
    walk.classes.keep_whole((*into[-spatial:], *kernel[2:]), "a convolution runs over it")
    channels = into[-spatial - 1]
    if groups == 1:
        summed = walk.classes.meet(channels, kernel[1], MEETS_FIXED)
        walk.scale(call, 0, "input", summed)
    else:
        _groups(walk, call, channels, groups)
    made = kernel[0]
    if walk.is_tensor(bias):
        made = walk.classes.meet(walk.flow(bias)[0], made, MEETS_FIXED)
    walk.produces(weight, 0)
    walk.starts(weight, range(1, len(kernel)), bias)
    walk.output_layer = None
    return (*into[: -spatial - 1], made, *(None,) * spatial)


def _groups(walk: Walk, call: Call, channels: Part | None, groups: int) -> None:
    """Every group has inputs and outputs of its own, so both move in whole groups, and together."""
    weight = call.get(1, "weight")
    flow, shape = walk.flow(weight), walk.shape(weight)
    walk.classes.keep_whole((flow[1],), None)
    if channels is None or flow[0] is None:
        walk.classes.keep_whole((channels, flow[0]), MEETS_FIXED)
        return
    into = walk.classes.grouped(channels, walk.classes.extent(channels) // groups)
    out = walk.classes.grouped(flow[0], shape[0] // groups)
    both = walk.classes.meet(into, out, MEETS_FIXED)
    if both is not None:
        call.put(6, "groups", Extent(both, groups))


def _conv_transpose(walk: Walk, call: Call) -> Flow | list[Flow]:
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    if call.get(6, "groups", 1) != 1:
        return walk.keep_whole(call, "a grouped transposed convolution")
    into, kernel = walk.flow(x), walk.flow(weight)
    spatial = len(kernel) - 2
    walk.classes.keep_whole((*into[-spatial:], *kernel[2:]), "a convolution runs over it")
    walk.scale(call, 0, "input", walk.classes.meet(into[-spatial - 1], kernel[0], MEETS_FIXED))
    made = kernel[1]
    if walk.is_tensor(bias):
        made = walk.classes.meet(walk.flow(bias)[0], made, MEETS_FIXED)
    walk.produces(weight, 1)
    walk.starts(weight, (0, *range(2, len(kernel))), bias)
    walk.output_layer = None
    return (*into[: -spatial - 1], made, *(None,) * spatial)


def _embedding(walk: Walk, call: Call) -> Flow:
    indices, weight = call.get(0, "input"), call.get(1, "weight")
    flow = walk.flow(weight)
    walk.classes.keep_whole(flow[:1], None)
    if call.get(3, "max_norm") is not None:
        walk.classes.keep_whole(flow, "an Embedding with max_norm changes its weights in forward")
    walk.produces(weight, 1)
    walk.starts(weight, (1,))
    return (*(None for _ in walk.flow(indices)), flow[1])


def _layer_norm(walk: Walk, call: Call) -> Flow:
    flow, sizes = walk.flow(call.get(0, "input")), call.get(1, "normalized_shape")
    first = len(flow) - len(sizes)
    walk.classes.mix(flow[first:])
    _norm_weights(walk, call, (2, 3), flow[first:])
    call.put(1, "normalized_shape", _extents(flow[first:], sizes))
    return flow


def _extents(parts: Flow, sizes: Any) -> tuple[Any, ...]:
    return tuple(size if part is None else Extent(part, size) for part, size in zip(parts, sizes, strict=True))


def _norm_weights(walk: Walk, call: Call, places: tuple[int, int], dims: Flow) -> None:
    """The dimensions that are normalised are the weight's and the bias's."""
    for place, name, value in zip(places, ("weight", "bias"), (1.0, 0.0), strict=True):
        ref = call.get(place, name)
        if walk.is_tensor(ref):
            for part, own in zip(dims, walk.flow(ref), strict=True):
                walk.classes.meet(part, own, MEETS_FIXED)
            walk.constants.setdefault(walk.parameter(ref) or "", value)


def _group_norm(walk: Walk, call: Call) -> Flow:
    flow, groups = walk.flow(call.get(0, "input")), call.get(1, "num_groups")
    _norm_weights(walk, call, (2, 3), flow[1:2])
    part = flow[1]
    if part is not None and groups > 1:
        call.put(1, "num_groups", Extent(walk.classes.grouped(part, walk.classes.extent(part) // groups), groups))
    else:
        walk.classes.mix((part,))
    return flow


def _instance_norm(walk: Walk, call: Call) -> Flow:
    flow = walk.flow(call.get(0, "input"))
    if walk.is_tensor(call.get(1, "running_mean")):
        _refuse_running(walk, call, "InstanceNorm with running")
    _norm_weights(walk, call, (3, 4), flow[1:2])
    return flow


def _batch_norm(walk: Walk, call: Call) -> Flow:
    _refuse_running(walk, call, "BatchNorm")
    return ()


def _refuse_running(walk: Walk, call: Call, kind: str) -> None:
    raise TaskError(f"{call.step.where or 'model'}: {kind} {STATISTICS}")


def _attention(walk: Walk, call: Call) -> Flow:
    refs = [call.get(place, name) for place, name in enumerate(("query", "key", "value"))]
    query, key, value = (walk.flow(ref) for ref in refs)
    summed = walk.meet_all((query[-1], key[-1]), MEETS_FIXED)
    walk.classes.keep_whole((summed,), "attention compares whole heads")
    walk.classes.keep_whole((query[-2], key[-2], value[-2]), "attention runs over it")
    lead = list(broadcast(walk, refs[:1], walk.out_shape(call)[:-2], 2))
    for ref, flow in ((refs[1], key), (refs[2], value)):
        for place in range(len(lead)):
            lead[place] = _heads(walk, (lead[place], refs[0]), (flow[place], ref), place)
    mask = call.get(3, "attn_mask")
    if walk.is_tensor(mask):
        walk.classes.keep_whole(walk.flow(mask)[-2:], "attention runs over it")
        lead = list(joined(walk, tuple(lead), walk.flow(mask)[:-2], walk.shape(mask)[:-2]))
    return (*lead, None, value[-1])


def _heads(walk: Walk, query: tuple[Part | None, Any], other: tuple[Part | None, Any], place: int) -> Part | None:
    """A query's head and the key's that it looks at; several queries may share one (`enable_gqa`)."""
    times = walk.shape(query[1])[place] // walk.shape(other[1])[place]
    part = other[0]
    if part is not None and times > 1:
        part = walk.classes.spanning(part, part.span * times)
    if part is None and query[0] is None:
        return None
    return walk.classes.meet(query[0], part, MEETS_FIXED)


def _prelu(walk: Walk, call: Call) -> Flow:
    flow, slopes = walk.flow(call.get(0, "input")), walk.flow(call.get(1, "weight"))
    if walk.shape(call.get(1, "weight")) != (1,):
        walk.classes.meet(flow[1], slopes[0], MEETS_FIXED)
    return flow


RULES: dict[str, Rule] = {
    **SHAPES,
    **POINTWISE,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    **dict.fromkeys(("matmul", "rmatmul", "bmm", "mm"), _matmul),
    "linear": _linear,
    "prelu": _prelu,
    "addmm": _addmm,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "batch_norm": _batch_norm,
    "scaled_dot_product_attention": _attention,
}
