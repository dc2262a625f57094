"""Golden vectors: the fold, genesis and decoders give the same bits on every processor, however many threads run.

The hashes are part of the protocol. If one changes, nodes of this version and the last disagree: raise the protocol
version, never just the constant.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from p2pfusion.core.genesis import genesis
from p2pfusion.zoo.blueprints import mlp
from tests.core import golden

FOLD = "eda2207a0491d21378bfec4ef816dba69c1f87ea131dd1d99b271edc9dfff26a"
GENESIS = "7d8966dc4eeaaa1c5825f5a2fa08caa92a6ff6dcb817744154754ebd261761b7"
DECODERS = "4811d0ade22b51764088ddfa7a35f9cf2bb1c7f714a31e4fb514773df7b9053b"
ROOT = Path(__file__).parents[2]
HERE = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
"""What numpy can switch off on this machine, least first; naming anything else makes it warn."""
MATRIX = {"default": HERE, "avx2": HERE[1:], "avx512": []}


@pytest.mark.parametrize("capability", MATRIX)
def test_one_hash_on_every_processor(capability: str) -> None:
    off = MATRIX[capability]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "NPY_DISABLE_CPU_FEATURES"},
        "ATEN_CPU_CAPABILITY": capability,
        "PYTHONPATH": str(ROOT),
        **({"NPY_DISABLE_CPU_FEATURES": ",".join(off)} if off else {}),
    }
    command = [sys.executable, "-W", "error", "-m", "tests.core.golden"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *hashes, switched_off = done.stdout.splitlines()
    assert hashes == [f"{FOLD} {GENESIS} {DECODERS}"] * 2
    assert set(off) <= set(switched_off.split())


def test_the_golden_vector_is_wild_enough() -> None:
    vector = golden.wild_vector(golden.BLUEPRINT.size, 1)
    magnitude = np.abs(vector)
    assert ((vector == 0) & np.signbit(vector)).any()
    assert ((magnitude > 0) & (magnitude < np.finfo(np.float32).tiny)).sum() > 100
    assert np.isfinite(vector).all()
    assert magnitude.max() > 1e9


def test_genesis_stays_in_its_bounds_and_depends_on_seed_and_name_only() -> None:
    blueprint = mlp(64, (96, 80), 10)
    first, other = genesis(blueprint, 0), genesis(blueprint, 1)
    assert (first != other).mean() > 0.99
    for parameter in blueprint.parameters:
        values = first[blueprint.parameter_slices[parameter.name]]
        bound = np.float32(
            1 / np.sqrt(96 if parameter.name.startswith("hidden2") else 80 if "out" in parameter.name else 64)
        )
        assert values.min() >= -bound
        assert values.max() < bound
        assert np.abs(values).max() > 0.9 * bound
    wider = genesis(mlp(64, (96, 80), 20), 0)
    assert (wider[: 96 * 65] == first[: 96 * 65]).all()
