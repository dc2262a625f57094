"""Run as a program: prints the hashes of the golden fold, genesis and decoders, computed with 1 and with 2 threads.

torch is imported and has worked before the fold runs, because that is how a node lives: a library that switched the
processor to flush denormals would show here. The last line names what numpy had switched off, so that the test can
tell that the matrix is real.
"""

from __future__ import annotations

import hashlib
import random
import struct

import numpy as np
import torch
from blake3 import blake3
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from p2pfusion.core.fold import Weighted, fold, model_sha256
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import Seat, constant, double_shift, random_dropout
from p2pfusion.wire.compression import decode_into
from p2pfusion.wire.lossless import squeezed
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from tests.core.strategies import wild_vector

BLUEPRINT = mlp(64, (96, 80), 10)
WEIGHTS = (1, 65536, 65537, 2**32, 3, 99_999_999)


def golden_fold() -> str:
    """Six peers, three of them on windows that wrap, three on scattered indices, over two rounds."""
    model = wild_vector(BLUEPRINT.size, 1)
    model[::97] = np.float32(-0.0)
    for round_index in (0, 75):
        items = []
        for rank in range(6):
            scheme = double_shift(constant(0.3)) if rank < 3 else random_dropout()
            seat = Seat(rank=rank, peers=6, round=round_index, rates=(0.5,) * 6)
            sub_model = scheme(BLUEPRINT, seat, random.Random(rank))
            values = wild_vector(sub_model.size(BLUEPRINT), 100 * round_index + rank + 2)
            items.append(Weighted(bytes([7 * rank % 6]) * 16, WEIGHTS[rank], sub_model, values))
        model = fold(BLUEPRINT, BLUEPRINT.whole(), model, items)
    return model_sha256(model)


def golden_genesis() -> str:
    """An MLP and a residual network, two seeds."""
    blueprints = (BLUEPRINT, residual_cnn(3, (16, 32), 10))
    hashes = [model_sha256(genesis(blueprint, seed)) for blueprint in blueprints for seed in (0, 2**32 - 1)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def noise(name: str, size: int) -> bytes:
    """Bytes that no library's generator can change."""
    return blake3(name.encode()).digest(length=size)


def golden_scales(name: str, count: int) -> bytes:
    """Every exponent up to 2^119, the smallest normal number and zero among them."""
    words = np.frombuffer(noise(name, 8 * count), "<u4").reshape(2, count)
    bits = (words[0] % 246 + 1) << 23 | words[1] & 0x7FFFFF
    bits[:2] = 0, 1 << 23
    return bits.astype("<u4").tobytes()


def golden_segments(elements: int) -> list[tuple[str, bytes]]:
    """A segment of every codec, made by hand, of every kind of index."""
    blocks = -(-elements // 256)
    gaps = np.minimum(np.frombuffer(noise("gaps", 1000), np.uint8), 180)
    gaps8 = struct.pack("<BIII", 0, 1000, 1000, 1000) + gaps.tobytes()
    gaps16 = struct.pack("<BIII", 1, 1000, 2000, 2000) + gaps.astype("<u2").tobytes()
    mask = noise("mask", elements // 8)
    ones = int.from_bytes(mask, "little").bit_count()
    masked = struct.pack("<BIII", 2, ones, len(mask), len(mask)) + mask
    few, many = golden_scales("few", 4), golden_scales("many", -(-ones // 256))
    signs = noise("signs", -(-ones // 8))[:-1] + b"\0"
    return [
        ("fp32", noise("fp32", 4 * elements)),
        ("bf16", noise("bf16", 2 * elements)),
        ("int8", golden_scales("int8", blocks) + noise("int8", elements)),
        ("int8", squeezed(golden_scales("int8", blocks) + bytes(elements // 2) + noise("int8", elements // 2))),
        ("int4", golden_scales("int4", blocks) + noise("int4", elements // 2)),
        ("topk", gaps8 + few + noise("topk", 1000)),
        ("topk", gaps16 + squeezed(few + bytes(500) + noise("topk", 500))),
        ("topk", masked + many + noise("topk", ones)),
        ("stc", gaps8 + few + noise("stc", 125)),
        ("stc", masked + many + signs),
    ]


def golden_decoders() -> str:
    """The bits that every decoder makes of them, also where the last block is not full."""
    decoded = hashlib.sha256()
    for elements in (1 << 17, (1 << 17) - 88):
        out = np.empty(elements, np.float32)
        for codec, segment in golden_segments(elements):
            decode_into(codec, segment, out)
            decoded.update(out.astype("<f4", copy=False).data)
    return decoded.hexdigest()


def main() -> None:
    for threads in (1, 2):
        torch.set_num_threads(threads)
        layer = torch.nn.Linear(64, 64)
        layer(torch.ones(512, 64)).sum().backward()
        print(golden_fold(), golden_genesis(), golden_decoders())
    print(*(name for name in __cpu_dispatch__ if not __cpu_features__[name]))


if __name__ == "__main__":
    main()
