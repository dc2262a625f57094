"""Run as a program: prints the hashes of the golden fold and the golden genesis, computed with 1 and with 2 threads.

torch is imported and has worked before the fold runs, because that is how a node lives: a library that switched the
processor to flush denormals would show here. The last line names what numpy had switched off, so that the test can
tell that the matrix is real.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from p2pfusion.core.fold import Weighted, fold, model_sha256
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import Seat, constant, double_shift, random_dropout
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


def main() -> None:
    for threads in (1, 2):
        torch.set_num_threads(threads)
        layer = torch.nn.Linear(64, 64)
        layer(torch.ones(512, 64)).sum().backward()
        print(golden_fold(), golden_genesis())
    print(*(name for name in __cpu_dispatch__ if not __cpu_features__[name]))


if __name__ == "__main__":
    main()
