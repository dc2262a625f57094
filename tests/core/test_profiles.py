"""Profiles: what a stage takes, and a file that is read exactly or refused with the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pfusion.config import BLOCKS_MAX
from p2pfusion.core.profiles import TEXT_BYTES_MAX, BlockCost, Profile, from_json, to_json
from p2pfusion.errors import TaskError


def cost(name: str, output: int = 10) -> BlockCost:
    return BlockCost(
        name=name,
        forward_s=1.0,
        backward_s=2.0,
        optimiser_s=0.5,
        output_bytes=output,
        kept_bytes=30,
        parameter_bytes=100,
        gradient_bytes=101,
        optimiser_bytes=102,
    )


PROFILE = Profile(batch=32, origin="a test", blocks=(cost("stem", 70), cost("layer0", 20), cost("head")))


def test_what_a_stage_takes() -> None:
    assert PROFILE.forward_s(0, 2) == 2.0
    assert PROFILE.backward_s(1, 3) == 5.0
    assert [PROFILE.output_bytes(stop) for stop in range(4)] == [0, 70, 20, 10]


def test_memory_in_the_papers_way_and_in_ours() -> None:
    assert PROFILE.memory_bytes(1, 3, 4, "paper") == 4 * (20 + 100 + 10 + 100)
    # Two blocks of each of four copies, the output on its way, twice the largest activation, which comes in, and five
    # times the parameters for the ledger.
    assert PROFILE.memory_bytes(1, 3, 4) == 4 * (2 * (30 + 100 + 101 + 102) + 10) + 2 * 70 + 5 * 2 * 100


def test_a_profile_survives_its_file() -> None:
    assert from_json(to_json(PROFILE)) == PROFILE
    assert len(to_json(PROFILE).splitlines()) == 10, "one line per block, for people"


def changed(**fields: Any) -> str:
    value = json.loads(to_json(PROFILE))
    for path, new in fields.items():
        target, *names = path.split("__")
        place: Any = value
        for name in [target, *names][:-1]:
            place = place[int(name)] if name.isdigit() else place[name]
        if new is ...:
            del place[[target, *names][-1]]
        else:
            place[[target, *names][-1]] = new
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be an object with the fields format, batch"),
        (changed(format="p2pfusion-profile-2"), "format: 'p2pfusion-profile-2'; must be 'p2pfusion-profile-1'"),
        (changed(batch=...), "the field 'batch' is missing"),
        (changed(extra=1), "there is no field 'extra'"),
        (changed(batch=True), "batch: True"),
        (changed(batch=0), "batch: 0; must be a whole number from 1"),
        (changed(origin="two\nlines"), "origin: must be 1 to 256 printable"),
        (changed(blocks={}), "blocks: must be a list"),
        (changed(blocks=[]), "blocks: 0 of them"),
        (changed(blocks__1__name="stem"), "blocks\\[1\\].name: 'stem' is the name of blocks\\[0\\] too"),
        (changed(blocks__1__forward_s=-1), "blocks\\[1\\].forward_s: -1"),
        (changed(blocks__1__forward_s=float("nan")), "blocks\\[1\\].forward_s: nan"),
        (changed(blocks__2__backward_s="1"), "blocks\\[2\\].backward_s: '1'"),
        (changed(blocks__2__kept_bytes=1.5), "blocks\\[2\\].kept_bytes: 1.5"),
        (changed(blocks__2__kept_bytes=1 << 51), "blocks\\[2\\].kept_bytes"),
        (changed(blocks__0__optimiser_bytes=...), "blocks\\[0\\]: the field 'optimiser_bytes' is missing"),
        (" " * (TEXT_BYTES_MAX + 1), "longer than"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_named(text: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        from_json(text)


def test_as_many_blocks_as_a_blueprint_may_have_and_not_one_more() -> None:
    blocks = tuple(cost(f"b{n}") for n in range(BLOCKS_MAX + 1))
    assert len(from_json(to_json(Profile(batch=1, origin="x", blocks=blocks[:-1]))).blocks) == BLOCKS_MAX
    with pytest.raises(TaskError, match="blocks"):
        Profile(batch=1, origin="x", blocks=blocks)
