"""Genesis: the values every peer starts from, the same bits on every machine (PROTOCOL.md 1).

torch's own initialisers are not: their vectorised paths differ by CPU. Here the numbers are the raw 64-bit output of
numpy's Philox, keyed by BLAKE3 of seed and parameter name; their top 24 bits become a float32 exactly, and one
multiplication, rounded once by IEEE 754, sets the range. Peers must share their start: averaging different
initialisations destroys the weights' variance.

Knows nothing of torch, peers or runs.
"""

from __future__ import annotations

import math

import numpy as np
from blake3 import blake3

from p2pfusion.core.blueprint import Blueprint, Parameter
from p2pfusion.core.submodel import Vector

_BITS = 24
"""A float32 holds every integer of this many bits."""
_CHUNK = 1 << 16
"""Numbers drawn at a time: the raw ones take five times the memory of what is made of them."""


def genesis(blueprint: Blueprint, seed: int) -> Vector:
    """The whole model's first values, flat float32. A parameter depends on seed and name, not on its neighbours."""
    values = np.empty(blueprint.size, np.float32)
    for parameter in blueprint.parameters:
        values[blueprint.parameter_slices[parameter.name]] = drawn(blueprint, parameter, seed)
    return values


def drawn(blueprint: Blueprint, parameter: Parameter, seed: int) -> Vector:
    """The first values of one parameter, flat float32."""
    count = math.prod(blueprint.shape(parameter))
    if parameter.init.fan_in is None:
        return np.full(count, parameter.init.value, np.float32)
    fan_in = math.prod(blueprint.extent(dim) for dim in parameter.init.fan_in)
    key = blake3(f"p2pfusion genesis {seed} {parameter.name}".encode()).digest(length=16)
    stream = np.random.Philox(key=np.frombuffer(key, "<u8").astype(np.uint64))
    step, values = np.float32(math.ldexp(1.0 / math.sqrt(fan_in), 1 - _BITS)), np.empty(count, np.float32)
    for start in range(0, count, _CHUNK):
        piece = values[start : start + _CHUNK]
        whole = (stream.random_raw(piece.size) >> np.uint64(64 - _BITS)).astype(np.int64) - (1 << (_BITS - 1))
        np.multiply(whole.astype(np.float32), step, out=piece)
    return values
