"""Rules of functions without parameters that calculate: entry by entry, over a dimension, or over space.

Where tensors meet entry by entry their dimensions are one: that is how a residual stream becomes one axis. What a
function runs over stays whole, but for a mean, which is of the right size whatever is kept.
"""

from __future__ import annotations

from typing import Any

from p2pfusion.core.flows import Flow
from p2pfusion.core.tracing_walk import Call, Rule, Walk

MEETS_FIXED = "meets something that cannot be sliced with it"


def broadcast(walk: Walk, refs: list[Any], shape: tuple[int, ...], cut: int = 0) -> Flow:
    """What an elementwise function of these tensors makes, without their last `cut` dimensions."""
    result: Flow | None = None
    for ref in refs:
        own, size = walk.flow(ref), walk.shape(ref)
        own, size = own[: len(own) - cut], size[: len(size) - cut]
        if result is None:
            missing = len(shape) - len(size)
            result = (None,) * missing + own
            sizes = (1,) * missing + size
            continue
        result = joined(walk, result, own, size, sizes)
        sizes = tuple(max(pair) for pair in zip(sizes, (1,) * (len(shape) - len(size)) + size, strict=True))
    return result or ()


def joined(
    walk: Walk, left: Flow, right: Flow, right_shape: tuple[int, ...], left_shape: tuple[int, ...] | None = None
) -> Flow:
    """Two flows that meet, aligned at their ends; what is of extent 1 is repeated along the other."""
    missing = len(left) - len(right)
    joined = []
    for place, part in enumerate(left):
        other = right[place - missing] if place >= missing else None
        is_repeated = place < missing or right_shape[place - missing] == 1
        if is_repeated:
            joined.append(part)
        elif left_shape is not None and left_shape[place] == 1:
            joined.append(other)
        elif part is None and other is None:
            joined.append(None)
        else:
            joined.append(walk.classes.meet(part, other, MEETS_FIXED))
    return tuple(joined)


def _elementwise(walk: Walk, call: Call) -> Flow:
    refs = walk.tensors(call)
    call.args = [walk.bake(item, "forward computes with its width") for item in call.args]
    call.kwargs = {name: walk.bake(item, "forward computes with its width") for name, item in call.kwargs.items()}
    call.numbers_are_done = True
    return broadcast(walk, list(refs), walk.out_shape(call))


def _alike(walk: Walk, call: Call) -> Flow:
    """Something of the first argument's shape; what else is given, such as a tensor of the wanted type, counts not."""
    return walk.flow(call.get(0, "input"))


def _average(walk: Walk, call: Call) -> list[Flow]:
    """A mean over a sliced dimension is the mean of what is kept: of the right size, so it may stay sliced."""
    flow = walk.flow(call.get(0, "input"))
    places = _reduced(call, len(flow))
    walk.classes.mix(flow[place] for place in places)
    return _reduce(walk, call, flow, places)


def _summary(walk: Walk, call: Call) -> list[Flow]:
    flow = walk.flow(call.get(0, "input"))
    places = _reduced(call, len(flow))
    name = call.step.name.strip("_")
    walk.classes.keep_whole((flow[place] for place in places), f"{name} runs over it")
    return _reduce(walk, call, flow, places)


def _reduced(call: Call, count: int) -> frozenset[int]:
    dims = call.get(1, "dim")
    given = range(count) if dims is None else dims if isinstance(dims, tuple | list) else (dims,)
    return frozenset(place % count for place in given)


def _reduce(walk: Walk, call: Call, flow: Flow, places: frozenset[int]) -> list[Flow]:
    results: list[Flow] = []
    for ref in walk.outs(call):
        keeps = len(walk.shape(ref)) == len(flow)
        results.append(
            tuple(None if place in places else part for place, part in enumerate(flow) if keeps or place not in places)
        )
    return results


def _along(walk: Walk, call: Call) -> Flow:
    """softmax, cumsum, glu and the like: what they run over stays whole."""
    flow, dim = walk.flow(call.get(0, "input")), call.get(1, "dim", -1)
    name = call.step.name.strip("_")
    places = range(len(flow)) if dim is None else (dim % len(flow),)
    walk.classes.keep_whole((flow[place] for place in places), f"{name} runs over it")
    return flow


def _pool(walk: Walk, call: Call) -> list[Flow]:
    """Pooling, upsampling and unfolding of the last dimensions: the channels before them flow through."""
    flow = walk.flow(call.get(0, "input"))
    name = call.step.name.strip("_")
    spatial = int(name[-2]) if name[-2:-1].isdigit() else len(flow) - 2
    walk.classes.keep_whole(flow[-spatial:], f"{name} runs over it")
    return [(*flow[:-spatial], *(None,) * spatial) for _ in walk.outs(call)]


_ELEMENTWISE = (
    "add iadd radd sub isub rsub subtract mul imul rmul multiply div idiv rdiv truediv itruediv rtruediv divide "
    "floordiv floor_divide remainder pow rpow neg negative abs sign sqrt rsqrt square reciprocal exp expm1 log log1p "
    "erf sin cos tanh sigmoid relu relu6 leaky_relu elu celu selu gelu silu mish softplus softsign hardtanh hardswish "
    "hardsigmoid hardshrink softshrink tanhshrink logsigmoid threshold dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_dropout feature_alpha_dropout clamp clip maximum minimum where masked_fill lerp addcmul "
    "addcdiv nan_to_num floor ceil round eq ne lt le gt ge logical_and logical_or logical_not and or invert"
)
_ALIKE = (
    "contiguous clone detach to type_as float half bfloat16 double cpu cuda ones_like zeros_like rand_like randn_like "
    "full_like empty_like bernoulli alias"
)
_POOLS = (
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate "
    "upsample"
)


POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_ALIKE.split(), _alike),
    **dict.fromkeys(_POOLS.split(), _pool),
    **dict.fromkeys(("mean", "var", "std"), _average),
    **dict.fromkeys(("sum", "amax", "amin", "max", "min", "norm", "logsumexp", "prod", "any", "all"), _summary),
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "cumsum", "flip", "normalize"), _along),
}
