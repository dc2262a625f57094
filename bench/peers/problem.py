"""The problem that every averaging system is given: known vectors, the exact mean, the error of an answer.

Peer k of a swarm starts with `base + offset_k`, float32: values of 0.02 (the weights of a trained layer) with an offset
of 7e-3 of its own (what local training changed). All are normal, seeded, and repeat after `PERIOD` elements, which is
longer than any system's message: no codec can gain from that, and making 50 million of them takes no time.

It knows numpy and nothing else: it runs in everybody's environment.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]

PERIOD = 2_000_003
BASE_STD, OFFSET_STD = 0.02, 7e-3
SAMPLE = 61
"""A prime, so that the sample meets every place in a system's messages."""


def base(elements: int, seed: int) -> Vector:
    """What everybody shares: float32, `elements` long."""
    return _normal(elements, BASE_STD, (seed, 0))


def offset(elements: int, seed: int, peer: int) -> Vector:
    """What peer `peer` (from 0) differs by: float32, `elements` long."""
    return _normal(elements, OFFSET_STD, (seed, 1 + peer))


def start(elements: int, seed: int, peer: int) -> Vector:
    """The vector that peer holds before the exchange."""
    values = base(elements, seed)
    values += offset(elements, seed, peer)
    return values


def exact_mean(elements: int, seed: int, peers: int) -> Exact:
    """Mean of all peers' vectors in float64."""
    total = np.zeros(elements)
    for peer in range(peers):
        total += start(elements, seed, peer)
    return total / peers


def sample_error(result: Vector, seed: int, peers: int) -> float:
    """Relative L2 distance to the exact mean, on every `SAMPLE`th element: cheap enough for every process to check."""
    at = np.arange(0, result.size, SAMPLE)
    total = np.zeros(at.size)
    shared = _drawn(BASE_STD, (seed, 0), result.size)
    for peer in range(peers):
        own = _drawn(OFFSET_STD, (seed, 1 + peer), result.size)
        total += shared[at % shared.size] + own[at % own.size]
    return error(result[at], total / peers)


def error(result: Vector, expected: Exact) -> float:
    """Relative L2 distance of a result to the exact values; infinite for one of another size."""
    if result.shape != expected.shape:
        return float("inf")
    difference = result - expected
    return float(np.sqrt(difference @ difference) / np.sqrt(expected @ expected))


def checksum(values: Vector) -> int:
    """CRC-32 of the bytes: proof that two programs hold the same vector."""
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8))


def _normal(elements: int, std: float, seed: tuple[int, int]) -> Vector:
    return np.resize(_drawn(std, seed, elements), elements)


def _drawn(std: float, seed: tuple[int, int], elements: int) -> Vector:
    """One period, or less of it when less is needed."""
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(PERIOD, np.float32)[:elements]
    drawn *= np.float32(std)
    return drawn
