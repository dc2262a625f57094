"""Shards: every block in one, as even as can be, what is tied together; and a shard alone starts as in the whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from p2pfusion.config import BLOCKS_MAX, SHARDS_MAX
from p2pfusion.core.blueprint import Blueprint, Dim, Init, Parameter
from p2pfusion.core.genesis import genesis
from p2pfusion.core.shards import Shards, deal, part
from p2pfusion.core.stages import cut, held, ties
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp, resnet18
from p2pfusion.zoo.transformers import gpt, vit
from tests.core.strategies import blueprints, no_module

ZOO = {
    "mlp": mlp(6, (8, 4, 12, 8), 3),
    "resnet18": resnet18(1, 3, (8, 16, 24, 32), groups=4),
    "vit": vit(8, 4, 1, 8, 3, 2, 16, 3),
    "gpt": gpt(11, 6, 8, 3, 2, 16),
}


def sized(sizes: list[int]) -> Blueprint:
    """A block of each size; 0: without parameters of its own."""
    blocks = [f"block{number}" for number in range(len(sizes))]
    parameters = [
        Parameter(f"{block}.weight", block, (Dim(None, size),), Init(None))
        for block, size in zip(blocks, sizes, strict=True)
        if size
    ]
    return Blueprint(tuple(blocks), (), tuple(parameters), no_module)


def sizes_of(blueprint: Blueprint, shards: Shards) -> list[int]:
    """Scalars of the shards beside the owners'."""
    return [SubModel(blocks).size(blueprint) for blocks in shards.middle]


def numbers(shards: Shards) -> list[list[int]]:
    """The blocks of a `sized` model by number, beside the owners'."""
    return [[int(block.removeprefix("block")) for block in blocks] for blocks in shards.middle]


def by_hand(sizes: list[int], groups: int) -> tuple[int, int]:
    """Of all ways to cut these sizes into groups the smallest largest one, and then the smallest sum of squares."""
    found = []
    for cuts in combinations(range(1, len(sizes)), groups - 1):
        made = [sum(sizes[a:b]) for a, b in pairwise([0, *cuts, len(sizes)])]
        found.append((max(made), sum(size * size for size in made)))
    return min(found)


# -- dealing ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=3, max_size=11), st.integers(1, 5), st.data())
def test_every_block_is_in_one_shard_and_shards_are_as_even_as_can_be(
    sizes: list[int], shards_max: int, data: st.DataObject
) -> None:
    blueprint = sized(sizes)
    first = data.draw(st.integers(1, len(sizes) - 2))
    last = data.draw(st.integers(1, len(sizes) - 1 - first))
    shards = deal(blueprint, first, last, shards_max)
    assert shards == deal(blueprint, first, last, shards_max)
    assert shards.first + shards.run(1, shards.count - 1) + shards.last == blueprint.blocks
    assert (len(shards.first), len(shards.last)) == (first, last)
    middle = sizes[first : len(sizes) - last]
    assert shards.count - 1 == min(shards_max, len(middle))
    made = sizes_of(blueprint, shards)
    assert (max(made), sum(size * size for size in made)) == by_hand(middle, shards.count - 1)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=12), st.integers(1, 5), st.data())
def test_whatever_is_tied_or_empty_every_shard_has_parameters_and_no_tie_is_parted(
    sizes: list[int], shards_max: int, data: st.DataObject
) -> None:
    blueprint = sized([1, *sizes, 1])
    middle = st.sampled_from(blueprint.blocks[1:-1])
    together = data.draw(st.lists(st.lists(middle, min_size=2, max_size=3, unique=True), max_size=2))
    if not any(sizes):
        with pytest.raises(TaskError, match="the blocks between the ends have no parameters"):
            deal(blueprint, ties=together)
        return
    shards = deal(blueprint, 1, 1, shards_max, ties=together)
    assert shards.first + shards.run(1, shards.count - 1) + shards.last == blueprint.blocks
    assert all(sizes_of(blueprint, shards))
    for blocks in together:
        assert sum(not set(blocks).isdisjoint(group) for group in shards.middle) == 1


def test_a_dealing_by_hand() -> None:
    blueprint = sized([9, 1, 2, 3, 4, 5, 9, 9])
    shards = deal(blueprint, 1, 2, 3)
    assert numbers(shards) == [[1, 2, 3], [4], [5]]
    assert shards.blocks(0) == ("block0", "block6", "block7")
    assert shards.blocks(1) == ("block1", "block2", "block3")
    assert shards.run(2, 3) == ("block4", "block5")
    assert shards.count == 4
    assert numbers(deal(sized([1] * 12), 1, 1, 4)) == [[1, 2], [3, 4], [5, 6, 7], [8, 9, 10]], "not 3, 3, 3 and 1"
    assert numbers(deal(sized([1] * 12), ties=[["block3", "block5"]]))[:3] == [[1], [2], [3, 4, 5]]
    assert numbers(deal(sized([1, 0, 2, 0, 3, 1]))) == [[1, 2, 3], [4]]


def test_shards_that_there_are_not() -> None:
    shards = deal(sized([1] * 5))
    for first, last in ((0, 1), (2, 1), (3, 4), (4, 4), (-1, 2)):
        with pytest.raises(ValueError, match=f"shards {first} to {last}: must be ascending and within 1 to 3"):
            shards.run(first, last)
    with pytest.raises(ValueError, match="shards 4 to 4"):
        shards.blocks(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": 0}, "owners keep at least the first block and the last"),
        ({"last": 0}, "owners keep at least the first block and the last"),
        ({"first": 2, "last": 2}, r"owners keep 2 \+ 2 of 4 blocks.*let them keep fewer"),
        ({"shards_max": 0}, "0 beside the owners'; must be 1 to 63"),
        ({"shards_max": SHARDS_MAX}, "64 beside the owners'; must be 1 to 63"),
        ({"ties": [("block0", "block1")]}, "block0 and block1 share a parameter.*or untie them"),
        ({"ties": [("block1", "block3")]}, "block1 and block3 share a parameter.*or untie them"),
    ],
)
def test_what_leaves_nothing_to_deal_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        deal(sized([1] * 4), **arguments)  # type: ignore[arg-type]


def test_ends_without_parameters_are_refused() -> None:
    with pytest.raises(TaskError, match="the blocks that owners keep have no parameters"):
        deal(sized([0, 1, 1, 0]))
    assert numbers(deal(sized([0, 1, 1, 2]))) == [[1], [2]]


def test_as_many_blocks_and_shards_as_there_may_be() -> None:
    blueprint = sized([1 + number % 7 for number in range(BLOCKS_MAX)])
    shards = deal(blueprint, shards_max=SHARDS_MAX - 1)
    made = sizes_of(blueprint, shards)
    assert shards.count == SHARDS_MAX
    assert max(made) - min(made) <= 7


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_dealt_and_its_stages_are_cut(name: str) -> None:
    blueprint = ZOO[name]
    shards = deal(blueprint, shards_max=3, ties=ties(blueprint))
    vector = genesis(blueprint, 0)
    for run in ([shards.first, shards.last], [shards.run(1, 2)], [shards.run(3, 3)]):
        stages = cut(blueprint, run, extract(blueprint, vector, held(blueprint, run)))
        assert [stage.blocks for stage in stages] == run


def test_a_tag_is_of_the_network_and_of_the_dealing() -> None:
    blueprint = ZOO["vit"]
    shards = deal(blueprint)
    tags = [shards.tag(blueprint), deal(blueprint, shards_max=2).tag(blueprint), shards.tag(ZOO["gpt"])]
    assert [len(tag) for tag in tags] == [16] * 3
    assert len(set(tags)) == 3
    assert shards.tag(blueprint) == deal(blueprint).tag(replace(blueprint)) == tags[0]
    plain = sized([1, 2, 3, 4])
    assert deal(plain).tag(plain).hex() == "9ddbc1adad629208e2f039428f12a257", "everywhere the same"


# -- ties -------------------------------------------------------------------------------------------------------------


def test_blocks_that_share_a_parameter_are_found() -> None:
    assert ties(ZOO["gpt"]) == (("embedding", "head"),)
    assert [ties(blueprint) for name, blueprint in ZOO.items() if name != "gpt"] == [()] * 3
    with pytest.raises(TaskError, match="does not say which of its parts"):
        ties(replace(ZOO["mlp"], factory=lambda spec: nn.Bilinear(2, 2, 2)))


class Twice(nn.Sequential):
    """Six layers, of which the second and the fifth have one weight."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(2, 2, bias=False) for _ in range(6)))
        self[4].weight = self[1].weight


def test_a_tie_between_the_ends_makes_one_shard_and_one_across_them_is_refused() -> None:
    """What has no parameters of its own, as the fifth layer here, belongs to the block before it."""
    dims = (Dim(None, 2), Dim(None, 2))
    blocks = {number: f"block{number}" for number in (0, 1, 2, 3, 5)}
    parameters = tuple(Parameter(f"{number}.weight", block, dims, Init(dims)) for number, block in blocks.items())
    blueprint = Blueprint(tuple(blocks.values()), (), parameters, lambda spec: Twice())
    together = ties(blueprint)
    assert together == (("block1", "block3"),)
    shards = deal(blueprint, ties=together)
    assert numbers(shards) == [[1, 2, 3]]
    (stage,) = cut(blueprint, [shards.run(1, 1)], np.zeros(12, np.float32))
    assert len(list(stage.parameters())) == 3
    with pytest.raises(TaskError, match="block1 and block3 share a parameter, and the owners' ends would part them"):
        deal(blueprint, last=2, ties=together)


# -- a shard alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_shard_starts_as_it_does_in_the_whole(name: str) -> None:
    blueprint = ZOO[name]
    shards = deal(blueprint)
    vector, prints = genesis(blueprint, 3), set()
    for shard in range(shards.count):
        blocks = shards.blocks(shard)
        alone, held_there = part(blueprint, blocks), SubModel(blocks)
        assert alone.whole().blocks == blocks
        assert alone.size == held_there.size(blueprint)
        assert [p.name for p in alone.parameters] == [p.name for p in blueprint.parameters if p.block in blocks]
        assert [alone.shape(p) for p in alone.parameters] == [
            blueprint.shape(p) for p in blueprint.parameters if p.block in blocks
        ]
        assert np.array_equal(genesis(alone, 3), extract(blueprint, vector, held_there))
        prints.add(alone.fingerprint())
    assert len(prints | {blueprint.fingerprint()}) == shards.count + 1


@settings(max_examples=50)
@given(blueprints(), st.data())
def test_any_part_is_its_slice_of_the_whole(blueprint: Blueprint, data: st.DataObject) -> None:
    blocks = data.draw(st.lists(st.sampled_from(blueprint.blocks), min_size=1, unique=True))
    chosen = SubModel.of(blueprint, {}, blocks)
    if not chosen.size(blueprint):
        with pytest.raises(TaskError, match="at least one block and one parameter"):
            part(blueprint, blocks)
        return
    alone = part(blueprint, blocks)
    assert alone == part(blueprint, blocks[::-1])
    assert (alone.blocks, alone.size) == (chosen.blocks, chosen.size(blueprint))
    assert {axis.name for axis in alone.axes} <= {axis.name for axis in blueprint.axes}
    assert np.array_equal(genesis(alone, 1), extract(blueprint, genesis(blueprint, 1), chosen))


def test_an_axis_that_only_the_start_needs_becomes_a_number() -> None:
    blueprint = mlp(6, (8, 4), 3)
    (weight, bias) = part(blueprint, ["out"]).parameters
    assert weight.init.fan_in == bias.init.fan_in == (Dim("hidden2"),), "the weight has it as its inputs"
    biases = tuple(replace(p, block="bias" if p.name == "out.bias" else p.block) for p in blueprint.parameters)
    parted = replace(blueprint, blocks=(*blueprint.blocks, "bias"), parameters=biases)
    alone = part(parted, ["bias"])
    assert alone.axes == ()
    assert alone.parameters[0].init.fan_in == (Dim(None, 4),)


def test_a_part_of_everything_is_everything_but_a_network() -> None:
    blueprint = ZOO["mlp"]
    alone = part(blueprint, blueprint.blocks)
    assert alone == blueprint
    assert alone.fingerprint() == blueprint.fingerprint()
    with pytest.raises(TaskError, match="a shard is no network of its own; cut its stages from"):
        alone.build(alone.whole())


@pytest.mark.parametrize("blocks", [[], ["nothing"], ["out", "nothing"]])
def test_a_part_of_what_is_not_there(blocks: list[str]) -> None:
    with pytest.raises(ValueError, match="block"):
        part(ZOO["mlp"], blocks)
