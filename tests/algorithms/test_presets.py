"""The table of presets: what each row makes of a task, what a swarm refuses, and what two runs have to agree on."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.algorithms.base import width_name
from p2pfusion.algorithms.presets import (
    CHAINS,
    MEMBERS,
    PRESETS,
    Terms,
    algorithm,
    cadence_of,
    check_live,
    ladder,
    made,
)
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.config import ALGORITHM_DEFAULT, RunConfig
from p2pfusion.core import schemes
from p2pfusion.core.depth import beginning
from p2pfusion.core.nested import prefix
from p2pfusion.core.objectives import LATER_ROUND
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.errors import TaskError, UsageError
from p2pfusion.lab.rounds import Player, rounds
from p2pfusion.wire.description import describe_run, first_difference
from p2pfusion.zoo.blueprints import residual_cnn

CHOOSING = Path(__file__).parents[2] / "docs" / "choosing.md"
LIVE = [name for name, preset in PRESETS.items() if preset.reach == "all"]
APART = ["ring", "dpsgd", "alone"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    y = x[:, :3].argmax(1)
    return prepare(Task(network(), (x, y), (x, y), batch_size=8, steps_per_round=2), seed=0)


@pytest.fixture(scope="module")
def with_exits() -> Prepared:
    """The same data for a network that can answer half way."""
    x = np.random.default_rng(0).standard_normal((64, 1, 2, 3)).astype(np.float32)
    y = x.reshape(64, 6)[:, :3].argmax(1)
    model = residual_cnn(1, (8, 16), 3, blocks_per_stage=1, groups=4, exits=2)
    return prepare(Task(model, (x, y), (x, y), batch_size=8, steps_per_round=2), seed=0)


def seat(rate: float, rank: int = 1, round_index: int = 4) -> Seat:
    return Seat(rank=rank, peers=3, round=round_index, rates=(rate,) * 3)


def slice_of(sliced: Sliced, place: Seat, seed: int = 3) -> SubModel:
    return sliced.scheme(sliced.blueprint, place, random.Random(seed))


def test_every_row_says_what_it_is() -> None:
    assert [*LIVE, *APART] == list(PRESETS)
    assert all(preset.text and "|" not in preset.text for preset in PRESETS.values())


def test_the_default_keeps_a_network_whose_weights_are_given_or_that_cannot_be_narrower(prepared: Prepared) -> None:
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    rigid = prepare(Task(nn.Sequential(nn.Linear(6, 3)), (x, y)), 0)
    cases = {"members": prepared, "nested": replace(prepared, is_given=True), "full": rigid}
    for name, task in cases.items():
        made_by_default = algorithm(ALGORITHM_DEFAULT, task)
        assert made_by_default.product.origin["algorithm"] == name
        assert made_by_default.blueprint == algorithm(name, task).blueprint
    with pytest.raises(TaskError, match="choose --algorithm full"):
        algorithm("members", rigid)


def test_the_documentation_lists_every_row() -> None:
    section = CHOOSING.read_text().partition("## Algorithms\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    where = {name: "a swarm" if preset.reach == "all" else "`lab.rounds`" for name, preset in PRESETS.items()}
    assert rows == [(name, preset.text, where[name]) for name, preset in PRESETS.items()]


@pytest.mark.parametrize("name", ["", "MSfusion", "fedavg", "msfusion "])
def test_an_unknown_name_is_the_users_mistake_and_the_known_ones_are_named(prepared: Prepared, name: str) -> None:
    known = ", ".join(["auto", *LIVE])
    with pytest.raises(UsageError, match=f"unknown algorithm '{name}': choose one of {known}$") as caught:
        algorithm(name, prepared)
    assert caught.value.exit_status == 2


def asks(sliced: Sliced) -> bool:
    """Whether a device of the smallest slice looks at the whole model."""
    held = beginning(sliced.blueprint, 0.25)
    return sliced.way.objective.sees_model(sliced.blueprint, held, LATER_ROUND)


def test_what_can_be_chosen_of_a_row_goes_behind_its_name(with_exits: Prepared) -> None:
    name = "co_s2p:units=masks:transfer=swarm:rolling_freeze=1:weights=even:sum=plain"
    check_live(name)
    made_so = algorithm(name, with_exits)
    assert made_so.product.origin["algorithm"] == name
    assert (made_so.way.weighing, made_so.way.is_expanded) == (None, True)
    assert asks(made_so)
    assert cadence_of(name) == cadence_of("co_s2p") != cadence_of("full")
    usual = algorithm("co_s2p", with_exits).way
    assert usual.weighing is not None
    assert not usual.is_expanded
    assert not asks(algorithm("co_s2p", with_exits))
    assert usual.networks(with_exits.blueprint) == made_so.way.networks(with_exits.blueprint)


CHOICES = (
    r"choose of units=importance\|masks, transfer=own\|swarm\|off, rolling_freeze=0 to 9999, weights=drift\|even, "
    r"sum=mean\|plain$"
)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("co_s2p:sum=much", f"co_s2p has no sum=much: {CHOICES}"),
        ("co_s2p:rolling_freeze=-1", "co_s2p has no rolling_freeze=-1: choose of units="),
        ("co_s2p:rolling_freeze=²", "co_s2p has no rolling_freeze=²: choose of units="),
        ("co_s2p:tea=green", "co_s2p has no tea=green: choose of units="),
        ("co_s2p:sum", "each choice once, as option=value"),
        ("co_s2p:", "each choice once, as option=value"),
        ("co_s2p:sum=plain:sum=mean", "each choice once, as option=value"),
        ("msfusion:phase=late", r"msfusion has no phase=late: choose of overlap=cosine\|sigmoid\|constant, horizon="),
        ("msfusion:horizon=10000", "msfusion has no horizon=10000: choose of .*horizon=0 to 9999"),
        ("msfusion:horizon=1", "horizon=1: an overlap changes in at least 2 rounds"),
        ("double_shift:rates=dynamic", "double_shift has no rates=dynamic: choose of overlap="),
        ("heterofl:rates=big", r"heterofl has no rates=big: choose of rates=fixed\|dynamic$"),
        ("full:sum=plain", "'full' has nothing to choose: write no more than its name"),
        ("fedavg:sum=plain", "unknown algorithm 'fedavg'"),
        ("auto:sum=plain", "'auto' has nothing to choose"),
        ("mp_sl:sum=plain", "'mp_sl' has nothing to choose"),
        ("co_s2p:rolling_freeze=" + 5000 * "1", "co_s2p has no rolling_freeze=11111111111111111111: choose of units="),
    ],
)
def test_a_wrong_choice_is_the_users_mistake_and_the_right_ones_are_named(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check_live(name)
    assert caught.value.exit_status == 2


CHOSEN = {
    "msfusion:overlap=sigmoid:horizon=60": schemes.double_shift(schemes.sigmoid(rounds=60)),
    "msfusion:overlap=constant:gaps=equidistant": schemes.double_shift(schemes.constant(0.25), gaps="equidistant"),
    "msfusion:overlap=constant": schemes.double_shift(schemes.constant(0.25)),
    "double_shift:phase=slip": schemes.double_shift(phase="slip"),
    "double_shift:horizon=9999": schemes.double_shift(schemes.cosine(rounds=9999)),
    "heterofl:rates=fixed": schemes.static(),
    "heterofl:rates=dynamic": schemes.dynamic(schemes.static()),
    "fedrolex:rates=dynamic": schemes.dynamic(schemes.rolling()),
}


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("round_index", [0, 40, 1000])
def test_a_chosen_window_is_the_schemes(prepared: Prepared, name: str, round_index: int) -> None:
    made_so = algorithm(name, prepared)
    seat = schemes.Seat(rank=1, peers=3, round=round_index, rates=(0.25, 0.5, 0.25))
    for seed in range(5):
        found, wanted = (
            scheme(made_so.blueprint, seat, random.Random(seed)) for scheme in (made_so.scheme, CHOSEN[name])
        )
        assert found == wanted
    usual = algorithm(name.partition(":")[0], prepared)
    assert type(made_so.way.objective) is type(usual.way.objective)
    assert made_so.way.aside == usual.way.aside


@pytest.mark.parametrize("name", APART)
def test_what_keeps_a_model_per_node_is_no_swarm(prepared: Prepared, name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' keeps a model on every node.*p2pfusion.lab.rounds only") as caught:
        algorithm(name, prepared)
    assert "\n" not in str(caught.value)
    assert made(PRESETS[name], prepared, Terms()).blueprint.size


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_no_algorithm_of_one_node(prepared: Prepared, name: str) -> None:
    check_live(name)
    with pytest.raises(UsageError, match=f"'{name}' trains the network in pieces: `p2pfusion join` and `plan`"):
        algorithm(name, prepared)


@pytest.mark.parametrize("terms", [{"common_rate": 0.0}, {"common_rate": 1.1}, {"outer_momentum": 1.0}])
def test_terms_that_cannot_be_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Terms(**terms)


# -- what they train --------------------------------------------------------------------------------------------------

SCHEMES = {
    "msfusion": schemes.double_shift,
    "double_shift": schemes.double_shift,
    "heterofl": schemes.static,
    "fedrolex": schemes.rolling,
    "random_dropout": schemes.random_dropout,
    "full": schemes.full,
    "nested": schemes.static,  # at widths of the run
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("round_", [0, 9])
def test_a_preset_trains_what_its_scheme_says(prepared: Prepared, name: str, rank: int, round_: int) -> None:
    sliced, place = algorithm(name, prepared), seat(0.5, rank, round_)
    found = slice_of(sliced, place)
    assert found == SCHEMES[name]()(sliced.blueprint, place, random.Random(3))
    assert (found == sliced.blueprint.whole()) == (name == "full")


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("rate", [0.125, 0.25, 0.5, 1.0])
def test_slices_below_and_above_the_common_width_train(
    prepared: Prepared, with_exits: Prepared, name: str, rate: float
) -> None:
    task = with_exits if name == "co_s2p" else prepared
    one = algorithm(name, task, terms=Terms(common_rate=0.25, outer_momentum=0.5))
    for played in [next(rounds([one], [rate], "all")) for _ in range(2)]:
        assert np.isfinite(played.models[0]).all()
        assert played.models[0].tobytes() != one.genesis.tobytes()
    found = one.evaluate(played.models[0])
    assert found is not None
    assert found.accuracy == max(found.widths.values(), default=found.accuracy)


class Residual(nn.Module):
    """Not an `nn.Sequential`: such a module is traced and replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.scale = nn.Linear(6, 16), nn.Linear(16, 16), nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = torch.relu(self.first(x))
        answer: torch.Tensor = self.head(stream + self.scale * torch.relu(self.inner(stream)))
        return answer


@pytest.mark.parametrize("name", [name for name in LIVE if name != "co_s2p"])
def test_traced_modules_train_and_are_measured_too(name: str) -> None:
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    task = Task(Residual(), (x, y), (x, y), batch_size=8, steps_per_round=4)
    one = algorithm(name, prepare(task, 0))
    model = next(rounds([one], [1.0], "all")).models[0]
    found = one.evaluate(model)
    assert found is not None
    assert np.isfinite(model).all()
    assert all(accuracy > 0 for accuracy in found.widths.values())


def test_a_network_without_exits_is_refused_with_the_fix(prepared: Prepared) -> None:
    with pytest.raises(TaskError, match=r"co_s2p: .* make it with exits, such as .*exits=4.* --algorithm members"):
        algorithm("co_s2p", prepared)


@pytest.mark.parametrize("name", ["full", "double_shift", "heterofl", "msfusion", "nested", "small"])
def test_who_trains_the_networks_own_output_leaves_the_other_exits_alone(with_exits: Prepared, name: str) -> None:
    """Their heads would get zeros, which hold back those who train them."""
    one = algorithm(name, with_exits, terms=Terms(common_rate=0.5))
    (given,) = next(rounds([one], [0.5], "all")).contributed
    assert "exit1" not in given.sub_model.blocks
    assert {"stem", "stage0_0", "stage1_0", "head"} <= set(given.sub_model.blocks)
    assert given.delta.size == given.sub_model.size(one.blueprint)


def test_widths_double_from_the_common_one_to_the_whole() -> None:
    assert ladder(0.125) == (0.125, 0.25, 0.5, 1.0)
    assert ladder(0.3) == (0.3, 0.6, 1.0)
    assert ladder(1.0) == (1.0,)
    assert [width_name(rate) for rate in (0.0625, 0.25, 1.0)] == ["6.25%", "25%", "100%"]


def test_nested_tells_every_width_and_serves_the_best(prepared: Prepared) -> None:
    sliced = algorithm("nested", prepared, terms=Terms(common_rate=0.25))
    found = sliced.evaluate(prepared.genesis)
    assert found is not None
    assert list(found.widths) == ["25%", "50%", "100%"] == list(sliced.product.networks)
    assert found.served is not None
    assert found.accuracy == found.widths[found.served] == max(found.widths.values())
    assert sliced.product.networks["50%"] == prefix(prepared.blueprint, 0.5)
    alone = algorithm("nested", prepared, terms=Terms(common_rate=1.0)).evaluate(prepared.genesis)
    assert alone is not None
    assert (alone.widths, alone.served, alone.accuracy) == ({}, None, found.widths["100%"])


def test_members_tell_one_of_them_and_all(prepared: Prepared) -> None:
    sliced = algorithm("members", prepared, terms=Terms(common_rate=0.5))
    found = sliced.evaluate(sliced.genesis)
    assert found is not None
    assert list(found.widths) == [f"1 of {MEMBERS}", f"{MEMBERS} of {MEMBERS}"]
    assert sliced.blueprint.size == MEMBERS * prepared.blueprint.narrow(0.5).size


def test_the_projection_is_trained_but_nobody_takes_it_home(prepared: Prepared) -> None:
    sliced = algorithm("msfusion", prepared)
    assert sliced.blueprint.blocks == (*prepared.blueprint.blocks, "projection")
    assert "projection" in slice_of(sliced, seat(0.5)).blocks
    (home,) = sliced.product.networks.values()
    assert home.blocks == prepared.blueprint.blocks
    kept = extract(sliced.blueprint, sliced.genesis, home)
    assert kept.tobytes() == prepared.genesis.tobytes(), "what the task's own model has starts as it would alone"


def test_how_a_model_was_made_is_told(prepared: Prepared) -> None:
    product = algorithm("small", prepared, terms=Terms(common_rate=0.125, outer_momentum=0.6)).product
    assert product.origin == {"algorithm": "small", "common_rate": "0.125", "outer_momentum": "0.6"}
    assert product.networks == {}


def test_given_weights_stay_where_the_model_is_the_tasks() -> None:
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    task = Task(network(), (x, y), batch_size=8, steps_per_round=1, init="given")
    given = prepare(task, seed=0)
    for name in ("full", "nested", "heterofl"):
        assert algorithm(name, given).genesis.tobytes() == given.genesis.tobytes()
    msfusion = algorithm("msfusion", given)
    assert msfusion.genesis[: given.genesis.size].tobytes() == given.genesis.tobytes()
    for name in ("small", "members"):
        with pytest.raises(TaskError, match="init = 'given'"):
            algorithm(name, given)


# -- what two nodes must agree on -------------------------------------------------------------------------------------


def difference(prepared: Prepared, name: str, *commons: float) -> str | None:
    """What a node with the first common rate is told by a swarm with the second."""
    blueprints = [algorithm(name, prepared, terms=Terms(common_rate=common)).blueprint for common in commons]
    mine, theirs = (
        describe_run(RunConfig(), blueprint, bytes(32), sender=bytes(16), members=1, newest=0)
        for blueprint in blueprints
    )
    return first_difference(mine, theirs)


@pytest.mark.parametrize("name", ["nested", "msfusion", "heterofl", "full"])
def test_where_the_common_width_makes_no_other_model_it_may_differ(prepared: Prepared, name: str) -> None:
    assert difference(prepared, name, 0.25, 0.5) is None


@pytest.mark.parametrize(("name", "parameter"), [("small", "0.weight"), ("members", "members.0.0.weight")])
def test_another_common_width_of_small_networks_is_refused_by_shape(
    prepared: Prepared, name: str, parameter: str
) -> None:
    told = difference(prepared, name, 0.25, 0.5)
    assert told is not None
    assert told.startswith(f"parameter {parameter}: swarm has 8x6 float32")
    assert "you have 4x6 float32" in told


def test_outer_momentum_is_heavy_ball_where_everybody_trains_the_whole() -> None:
    """w' = w - lr g(w) + mu (w - w_before), with the mean of the nodes' gradients; in float64 by hand."""
    rng, lr, mu, nodes = np.random.default_rng(1), 0.1, 0.6, 3
    xs = rng.standard_normal((nodes, 8, 2)).astype(np.float32)
    ys = (xs @ np.array([[1.0], [-2.0]], np.float32)).astype(np.float32)

    def one(rank: int) -> Sliced:
        task = Task(
            nn.Sequential(nn.Linear(2, 1, bias=False)), (xs[rank], ys[rank]), loss=nn.functional.mse_loss,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr), batch_size=8, steps_per_round=1,
            clip_norm=None,
        )  # fmt: skip
        return algorithm("full", prepare(task, seed=0), seed=rank, terms=Terms(outer_momentum=mu))

    nodes_of = [one(rank) for rank in range(nodes)]
    w = before = nodes_of[0].genesis.astype(np.float64)
    x, y = xs.reshape(-1, 2).astype(np.float64), ys.reshape(-1).astype(np.float64)
    play = rounds(nodes_of, [1.0] * nodes, "all")
    for _ in range(25):
        gradient = 2 * x.T @ (x @ w - y) / len(y)
        w, before = w - lr * gradient + mu * (w - before), w
        assert np.allclose(next(play).models[0], w, atol=2e-6)


def test_who_missed_rounds_repeats_one_rounds_share_of_the_movement(prepared: Prepared) -> None:
    """The model moved by 1 in each of the four rounds that a straggler trained one of; a newcomer repeats nothing."""
    still = replace(prepared, lr_schedule=lambda _: 0.0)
    sliced = algorithm("full", still, terms=Terms(outer_momentum=0.6))
    player = Player(sliced, random.Random(0))
    moved = []
    for round_index in (3, 4, 8):
        player.model = sliced.genesis + np.float32(round_index)
        moved.append(player.play(Seat(rank=0, peers=1, round=round_index, rates=(1.0,))).delta)
    assert not moved[0].any()
    assert np.allclose(moved[1], 0.6, atol=1e-5)
    assert np.allclose(moved[2], 0.6, atol=1e-5)


def test_rows_may_be_changed_for_an_experiment(prepared: Prepared) -> None:
    plain = replace(PRESETS["msfusion"], way=PRESETS["double_shift"].way, model=None)
    assert made(plain, prepared, Terms()).blueprint == prepared.blueprint
