"""The run id and the words for what tells two runs apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from p2pfusion import config
from p2pfusion.config import RunConfig
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.wire import codec
from p2pfusion.wire.description import MORE, describe_run, first_difference
from p2pfusion.wire.messages import RunDescription
from tests.wire import strategies as wire
from tests.wire.strategies import BLUEPRINT, HASH, PEER, RUN

OTHERS = {
    "swarm": RunConfig(swarm="ours"),
    "horizon": RunConfig(horizon_rounds=4),
    "staleness_max": RunConfig(staleness_max_rounds=65),
    "snapshot_every": RunConfig(snapshot_every_rounds=16),
}


def describe(run: RunConfig = RUN, blueprint: Blueprint = BLUEPRINT, genesis: bytes = HASH) -> RunDescription:
    return describe_run(run, blueprint, genesis, sender=PEER, members=3, newest=7)


def wider(**sizes: int) -> Blueprint:
    return replace(
        BLUEPRINT, axes=tuple(replace(axis, size=sizes.get(axis.name, axis.size)) for axis in BLUEPRINT.axes)
    )


def long_blueprint(parameters: int, name_bytes: int = 40) -> Blueprint:
    named = (Parameter(f"{i}.".ljust(name_bytes, "x"), "b", (Dim("h"),), Init(None)) for i in range(parameters))
    return Blueprint(("b",), (Axis("h", 4),), tuple(named), BLUEPRINT.factory)


def test_golden_run_id():
    """Another value here means that nodes of two builds cannot meet: raise PROTOCOL_VERSION on purpose."""
    assert codec.run_id(RUN, HASH, HASH).hex() == "f5ee348b15c24161baff795b50b36a5c8dd79bb102af45b2ed89c4095c91437d"


@pytest.mark.parametrize("name", OTHERS)
def test_every_shared_setting_is_part_of_the_run(name):
    same, other = (codec.run_id(run, HASH, HASH) for run in (RUN, OTHERS[name]))
    assert same != other
    assert first_difference(describe(), describe(OTHERS[name])).startswith(f"setting {name}: swarm has ")


def test_model_and_genesis_are_part_of_the_run():
    assert len({codec.run_id(RUN, *pair) for pair in ((HASH, HASH), (PEER * 2, HASH), (HASH, PEER * 2))}) == 3


def test_the_seed_is_not():
    """It acts through genesis alone; with weights of the user's own two seeds are one run."""
    assert codec.run_id(RUN, HASH, HASH) == codec.run_id(RunConfig(seed=1), HASH, HASH)
    assert first_difference(describe(), describe(RunConfig(seed=1))) is None


def test_words_for_settings():
    assert (
        first_difference(describe(RunConfig(horizon_rounds=4)), describe())
        == "setting horizon: swarm has 8, you have 4"
    )
    assert first_difference(describe(RunConfig(seed=1)), describe(genesis=PEER * 2)) == (
        "setting seed: swarm has 0, you have 1"
    )
    assert first_difference(describe(), describe(genesis=bytes(32))) == (
        f"setting genesis: swarm has {'00' * 32}, you have {HASH.hex()}"
    )


def test_words_for_parameters():
    assert first_difference(describe(blueprint=wider(h2=6)), describe()) == (
        "parameter 2.weight: swarm has 12x8 float32 head h2/3,h1/1, you have 6x8 float32 head h2/3,h1/1"
    )
    shorter = replace(BLUEPRINT, parameters=BLUEPRINT.parameters[:3])
    tail = "3x24 float32 head -,h2/3"
    assert (
        first_difference(describe(blueprint=shorter), describe())
        == f"parameter 4.weight: swarm has {tail}, you have none"
    )
    assert (
        first_difference(describe(), describe(blueprint=shorter))
        == f"parameter 4.weight: swarm has none, you have {tail}"
    )
    turned = replace(BLUEPRINT, parameters=BLUEPRINT.parameters[::-1])
    assert first_difference(describe(), describe(blueprint=turned)).startswith("parameter 4.weight: swarm has")


def test_the_protocol_is_told_first_and_the_model_before_other_settings():
    theirs = describe(RunConfig(horizon_rounds=4), wider(h1=4))
    assert first_difference(describe(), theirs).startswith("parameter 0.weight")
    newer = replace(theirs, settings=(("protocol", "2"), *theirs.settings[1:]))
    assert first_difference(describe(), newer) == "setting protocol: swarm has 2, you have 1"


def test_settings_only_one_side_knows():
    more = replace(describe(), settings=(*describe().settings, ("momentum", "0.9")))
    assert first_difference(describe(), more) == "setting momentum: swarm has 0.9, you have none"
    assert first_difference(more, describe()) == "setting momentum: swarm has none, you have 0.9"


@given(wire.descriptions, wire.descriptions)
def test_any_two_descriptions_can_be_compared(mine, theirs):
    told = first_difference(mine, theirs)
    assert first_difference(mine, mine) is None
    if dict(mine.settings) == dict(theirs.settings) and mine.parameters == theirs.parameters:
        assert told is None


@pytest.mark.parametrize("parameters", [config.PARAMETERS_MAX - 1, config.PARAMETERS_MAX, 3000])
@pytest.mark.parametrize("name_bytes", [5, 40, 300])
def test_long_models_are_cut_and_the_fingerprint_covers_the_rest(parameters, name_bytes):
    blueprint = long_blueprint(parameters, name_bytes)
    told = describe(blueprint=blueprint)
    assert codec.decode_run(codec.encode_run(told)) == told
    is_cut = told.parameters[-1][0] == MORE
    assert is_cut == (len(told.parameters) - is_cut < parameters)
    if is_cut:
        assert told.parameters[-1][1] == f"{parameters - len(told.parameters) + 1} more"
    one_more = describe(blueprint=long_blueprint(parameters + 1, name_bytes))
    assert first_difference(told, told) is None
    assert first_difference(told, one_more).startswith(("setting fingerprint", "parameter"))


def test_names_nobody_should_print_are_cleaned():
    odd = long_blueprint(1)
    odd = replace(odd, parameters=(replace(odd.parameters[0], name="a\x1b[2J\ud800" + "é" * 300),))
    told = describe_run(RunConfig(), odd, HASH, sender=PEER, members=1, newest=0)
    assert codec.decode_run(codec.encode_run(told)) == told
    assert told.parameters[0][0].startswith("a?[2J?")
