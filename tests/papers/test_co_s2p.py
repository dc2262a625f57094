"""Co-S2P (PAPERS.md 2): depth, width that follows the data, self-distillation, weights by drift, mixed slices."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.algorithms.presets import PRESETS, SEMI_ASYNCHRONOUS, Terms, cadence_of, live, made
from p2pfusion.config import WEIGHT_MAX, CadenceConfig
from p2pfusion.core import schemes
from p2pfusion.core.blueprint import Blueprint, units_kept
from p2pfusion.core.depth import at_exits, beginning, shallow
from p2pfusion.core.drift import FACTOR_MAX, Drift
from p2pfusion.core.exits import depths
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import Job, Objective, StepLoss, cross_entropy
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, Vector, extract, layout, of_blocks, scatter
from p2pfusion.core.tailored import Tailored
from p2pfusion.core.task import Task, prepare
from p2pfusion.core.training import Recipe, Sgd, Trained, loaded, train
from p2pfusion.core.transfer import Transfer, answers, rolled, told
from p2pfusion.core.units import Importance, Masks, _Draw, slice_of
from p2pfusion.errors import UsageError
from p2pfusion.lab.rounds import rounds
from p2pfusion.swarm.cadence import weight_of
from p2pfusion.zoo.blueprints import residual_cnn
from p2pfusion.zoo.transformers import vit
from tests.core.dense import dense_fold

VIT = vit(4, 2, 1, 16, 4, 4, 16, 3, exits=4)
CNN = residual_cnn(1, (8, 16), 3, blocks_per_stage=2, groups=4, exits=4)
X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 1, 0, 2])


def seat(rate: float, round_index: int = 0) -> Seat:
    return Seat(rank=0, peers=1, round=round_index, rates=(rate,))


def alive(blueprint: Blueprint) -> Vector:
    return np.random.default_rng(3).normal(0, 0.3, blueprint.size).astype(np.float32)


def trained(objective: Objective, sub_model: SubModel, round_index: int = 0, steps: int = 2) -> Trained:
    recipe = Recipe(loss=cross_entropy, optimizer=lambda p: Sgd(p, lr=0.1), steps=steps, objective=objective,
                    round=round_index)  # fmt: skip
    return train(VIT, sub_model, extract(VIT, alive(VIT), sub_model), iter([(X, Y)] * steps), recipe)


def layers_of(sub_model: SubModel) -> list[str]:
    return [block for block in sub_model.blocks if block.startswith("layer")]


# -- 2.2 depth ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "layers", "exits"), [(0.1, 1, 1), (0.25, 1, 1), (0.6, 2, 2), (0.75, 3, 3), (1.0, 4, 4)]
)
def test_a_rate_keeps_the_first_layers_and_the_exits_that_fit(rate: float, layers: int, exits: int) -> None:
    """PAPERS.md 2.2: the first floor(rho * L) blocks."""
    held = beginning(VIT, rate)
    assert layers_of(held) == [f"layer{number}" for number in range(layers)]
    assert [one.head for one in VIT.exits if one.head in held.blocks] == [one.head for one in VIT.exits[:exits]]
    assert VIT.members_in(held)
    narrow = shallow(schemes.static())(VIT, seat(rate), random.Random(0))
    assert narrow.blocks == held.blocks
    assert all(name.split(".")[0] in held.blocks for name, _ in narrow.kept)
    assert narrow.width(VIT, "layer0.heads") == 4 * units_kept(rate, 4)


def test_layers_that_no_exit_reads_are_left_out() -> None:
    twelve = vit(4, 2, 1, 16, 12, 4, 16, 3, exits=4)
    assert depths(12, 4) == (3, 6, 9, 12)
    assert len(layers_of(beginning(twelve, 0.6))) == 6


def test_rolling_freeze_trains_a_window_from_the_deepest_to_the_shallowest() -> None:
    """PAPERS.md 2.2: of four layers, two at a time."""
    whole = VIT.whole()
    windows = [layers_of(rolled(VIT, whole, 2, round_index)) for round_index in range(4)]
    assert windows == [["layer2", "layer3"], ["layer1", "layer2"], ["layer0", "layer1"], ["layer2", "layer3"]]
    assert ["embedding" in rolled(VIT, whole, 2, r).blocks for r in range(3)] == [False, False, True]
    assert layers_of(rolled(VIT, beginning(VIT, 0.25), 2, 1)) == ["layer0"], "a window wider than what is held"


def test_what_is_frozen_is_neither_changed_nor_contributed() -> None:
    objective, whole = Transfer(window=2), VIT.whole()
    part = objective.trains(VIT, whole, 1)
    done = trained(objective, whole, 1)
    changed = done.after != alive(VIT)
    places = VIT.parameter_slices
    moved = {parameter.block for parameter in VIT.parameters if changed[places[parameter.name]].any()}
    assert moved == set(part.blocks)
    assert of_blocks(VIT, whole, part, done.after).size == part.size(VIT) < VIT.size


# -- 2.3 width that follows the data -----------------------------------------------------------------------------------


def test_the_masks_gradient_is_the_probability_times_the_draws() -> None:
    """PAPERS.md 2.3: dL/dpi := pi * dL/dg."""
    pi = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
    g = _Draw.apply(pi, torch.tensor([0.0, 1.0, 1.0]))
    assert g.tolist() == [0.0, 1.0, 1.0]
    (g * torch.tensor([3.0, -2.0, 5.0])).sum().backward()
    assert pi.grad is not None
    assert torch.allclose(pi.grad, torch.tensor([0.2 * 3, 0.5 * -2, 0.9 * 5]))


def masked_answers(blueprint: Blueprint, masks: Masks, module: nn.Module) -> list[torch.Tensor]:
    """What the masked network says in one step."""
    said: list[torch.Tensor] = []

    def loss(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        said.extend(network.answers(x))  # type: ignore[operator]
        return said[-1].sum()

    masks.watched(module, loss)(module, X, Y)
    return said


@pytest.mark.parametrize("blueprint", [VIT, CNN], ids=["vit", "cnn"])
def test_the_dense_network_says_what_the_masked_one_says(blueprint: Blueprint) -> None:
    """PAPERS.md 2.3: rows by their own mask, columns by the mask before, outputs put back with zeros elsewhere."""
    held, values = beginning(blueprint, 0.5), alive(blueprint)
    masks = Masks(blueprint, held, 0.5, seed=4)
    kept = {
        name: sorted(random.Random(name).sample(range(len(one)), len(one) // 2)) for name, one in masks.logits.items()
    }
    for name, logits in masks.logits.items():
        logits.data = torch.full_like(logits, -100.0)
        logits.data[kept[name]] = 100.0
    module = loaded(blueprint, held, extract(blueprint, values, held)).eval()
    masked = masked_answers(blueprint, masks, module)
    small = slice_of(blueprint, held.blocks, masks.kept(0.5))
    assert masks.kept(0.5) == kept
    assert small.size(blueprint) < held.size(blueprint)
    dense = loaded(blueprint, small, extract(blueprint, values, small), scaled=False).eval()
    found = dense.answers(X)  # type: ignore[operator]
    assert len(found) == len(masked) == 2
    for one, other in zip(found, masked, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def learnt(masks: Masks, held: SubModel, loss: StepLoss, steps: int) -> dict[str, torch.Tensor]:
    """The probabilities of all units after so many steps."""
    module = loaded(VIT, held, extract(VIT, alive(VIT), held))
    step = masks.watched(module, loss)
    for _ in range(steps):
        step(module, X, Y).backward()
    masks.kept(0.5)
    return {name: torch.sigmoid(logits.detach()) for name, logits in masks.logits.items()}


def test_masks_follow_the_loss() -> None:
    """Unit 0 lowers it wherever it is drawn, unit 1 raises it, and nothing depends on the others."""
    held = beginning(VIT, 0.5)
    masks = Masks(VIT, held, 0.5, seed=0)

    def loss(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = network._rows["network.layer0.ffn.linear1.weight"].abs().sum(1)  # type: ignore[union-attr]
        return rows[1] - rows[0]

    found = learnt(masks, held, loss, 30)["layer0.ffn"]
    assert found[0] > 0.7
    assert found[1] < 0.3
    assert (found[2:] - 0.5).abs().max() < min(found[0] - 0.5, 0.5 - found[1])


@pytest.mark.parametrize(("rate", "start"), [(0.25, 0.75), (0.75, 0.25)])
def test_the_share_drawn_moves_to_the_one_that_is_wanted(rate: float, start: float) -> None:
    held = beginning(VIT, 0.5)
    masks = Masks(VIT, held, rate, seed=0)
    for logits in masks.logits.values():
        logits.data = torch.logit(torch.full_like(logits, start))
    found = learnt(masks, held, lambda network, x, y: 0 * network.answers(x)[-1].sum(), 30)  # type: ignore[operator]
    mean = float(torch.cat(list(found.values())).mean())
    assert abs(mean - rate) < 0.2 < abs(start - rate)


@pytest.mark.parametrize("how", ["importance", "masks"])
def test_of_an_axis_of_many_units_neighbours_are_kept_together(how: str) -> None:
    """Single units, every other one of 2,048, would be more ranges than a manifest holds."""
    wide = residual_cnn(1, (2048,), 2, groups=2048, exits=2)
    held = beginning(wide, 0.5)
    learning = Importance(wide, held) if how == "importance" else Masks(wide, held, 0.5, seed=0)
    for values in (learning.scores if isinstance(learning, Importance) else learning.logits).values():
        values.data = torch.randn(len(values), generator=torch.Generator().manual_seed(0))
        values.data[100:200] = 100.0
    narrow = slice_of(wide, held.blocks, learning.kept(0.5))
    for name, _ in narrow.kept:
        assert narrow.width(wide, name) == pytest.approx(1024, abs=0 if how == "importance" else 150)
        assert set(range(100, 200)) <= set(narrow.indices(wide, name).tolist())
    assert len(narrow.kept) == 2


def test_of_every_axis_one_unit_survives() -> None:
    """PAPERS.md 2.3: draws are repeated until at least one head survives."""
    held = beginning(VIT, 0.5)
    masks = Masks(VIT, held, 0.5, seed=0)
    for logits in masks.logits.values():
        logits.data = torch.full_like(logits, -100.0)
        logits.data[2] = -99.0
    assert set(map(tuple, masks.kept(0.5).values())) == {(2,)}


def test_importance_is_weight_times_gradient_summed_over_a_unit() -> None:
    """First-order Taylor, by hand for the heads of a layer."""
    held = beginning(VIT, 0.5)
    importance = Importance(VIT, held)
    module = loaded(VIT, held, extract(VIT, alive(VIT), held))
    loss = importance.watched(module, lambda network, x, y: cross_entropy(network(x), y))
    loss(module, X, Y).backward()
    by_hand = torch.zeros(4)
    for name, tensor in module.named_parameters():
        moved = (tensor.detach() * tensor.grad).abs() if tensor.grad is not None else None
        if moved is not None and name.startswith("layer1.attention."):
            if ".o." not in name:
                by_hand += moved.reshape(4, -1).sum(1)
            elif moved.dim() == 2:
                by_hand += moved.sum(0).reshape(4, 4).sum(1)
    assert torch.allclose(importance.scores["layer1.heads"], by_hand, rtol=1e-4)
    best = by_hand.topk(2).indices.sort().values.tolist()
    assert importance.kept(0.5)["layer1.heads"] == best


@pytest.mark.parametrize("how", ["importance", "masks"])
def test_after_two_rounds_the_slice_is_narrow_and_stays(how: str) -> None:
    one = Tailored(how)  # type: ignore[arg-type]
    first = one(VIT, seat(0.5), random.Random(0))
    assert first == beginning(VIT, 0.5)
    parts = []
    for round_index in range(2):
        assert one(VIT, seat(0.5, round_index), random.Random(0)) == first
        parts.append(one.trains(VIT, first, round_index))
        trained(one, first, round_index)
    narrow = one(VIT, seat(0.5, 2), random.Random(0))
    assert narrow.size(VIT) < first.size(VIT)
    assert one.trains(VIT, narrow, 2) == narrow, "all of it"
    trained(one, narrow, 2)
    assert one(VIT, seat(0.5, 3), random.Random(9)) == narrow
    if how == "importance":
        assert parts == [first, first]
        assert narrow.width(VIT, "layer1.ffn") == 8
        static = shallow(schemes.static())(VIT, seat(0.5), random.Random(0))
        assert narrow.size(VIT) == static.size(VIT), "what `check` tells before anything is learnt"
    else:
        assert {part.blocks for part in parts} == {("embedding", "exit1", "exit2")}, "masks leave the layers alone"


def test_while_importance_is_learnt_nothing_is_frozen() -> None:
    """Units of a frozen layer would seem to matter nothing."""
    one = Tailored("importance", Transfer(window=1))
    first = one(VIT, seat(0.5), random.Random(0))
    assert one.trains(VIT, first, 0) == first
    for round_index in range(2):
        trained(one, first, round_index)
    narrow = one(VIT, seat(0.5, 2), random.Random(0))
    assert layers_of(one.trains(VIT, narrow, 2)) == ["layer1"]


def test_while_masks_are_learnt_the_layers_stay() -> None:
    one, first = Tailored("masks"), beginning(VIT, 0.5)
    one(VIT, seat(0.5), random.Random(0))
    done = trained(one, first)
    start = extract(VIT, alive(VIT), first)
    for name, (span, _) in layout(VIT, first).items():
        assert (done.after[span] == start[span]).all() == name.startswith("layer")


def test_a_device_that_can_do_all_learns_no_width() -> None:
    one = Tailored()
    for round_index in range(3):
        assert one(VIT, seat(1.0, round_index), random.Random(0)) == VIT.whole()
        trained(one, VIT.whole(), round_index)


# -- 2.4 transfer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_index", [9, 10])
def test_the_loss_is_the_papers_by_hand(round_index: int) -> None:
    """PAPERS.md 2.4, with the mean over the batch of the divergence, from round 10 on."""
    held = beginning(VIT, 0.75)
    module = loaded(VIT, held, extract(VIT, alive(VIT), held)).eval()
    job = Job(
        blueprint=VIT, sub_model=held, start=np.zeros(0, np.float32), loss=cross_entropy, seed=0, round=round_index
    )
    found = Transfer().begin(job)(module, X, Y)
    first, second, deepest = module.answers(X)  # type: ignore[operator]
    expected = sum(F.cross_entropy(one, Y) for one in (first, second, deepest))
    if round_index >= 10:
        for one in (first, second):
            teacher = F.softmax(deepest / 3, 1)
            kl = F.kl_div(F.log_softmax(one / 3, 1), teacher, reduction="batchmean")
            expected = expected + 0.5 * 9 * kl
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_teacher_does_not_follow_its_pupils() -> None:
    """PAPERS.md 2.9: in the released code it does."""
    pupil, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    told(pupil, teacher, 3.0).backward()
    assert teacher.grad is None
    assert pupil.grad is not None


def test_switched_off_nothing_is_told() -> None:
    held = beginning(VIT, 0.5)
    module = loaded(VIT, held, extract(VIT, alive(VIT), held)).eval()
    job = Job(blueprint=VIT, sub_model=held, start=np.zeros(0, np.float32), loss=cross_entropy, seed=0, round=50)
    expected = sum(F.cross_entropy(one, Y) for one in module.answers(X))  # type: ignore[operator]
    assert torch.equal(Transfer(gamma=0.0).begin(job)(module, X, Y), expected)
    for wrong in ({"gamma": -1.0}, {"window": 0}):
        with pytest.raises(UsageError):
            Transfer(**wrong)  # type: ignore[arg-type]


def at(round_index: int, held: SubModel, model: Vector | None = None) -> Job:
    none = np.zeros(0, np.float32)
    return Job(
        blueprint=VIT, sub_model=held, start=none, loss=cross_entropy, seed=0, round=round_index, model=model
    )  # fmt: skip


def test_without_a_deep_block_the_swarms_head_teaches_every_exit() -> None:
    """The same loss with the model's deepest exit as teacher, the device's own deepest among the pupils."""
    held, swarm = beginning(VIT, 0.5), alive(VIT)[::-1].copy()
    module = loaded(VIT, held, extract(VIT, alive(VIT), held)).eval()
    found = Transfer(teacher="swarm").begin(at(10, held, swarm))(module, X, Y)
    teacher = F.softmax(loaded(VIT, VIT.whole(), swarm, scaled=False).eval()(X) / 3, 1)
    expected = sum(
        F.cross_entropy(one, Y) + 0.5 * 9 * F.kl_div(F.log_softmax(one / 3, 1), teacher, reduction="batchmean")
        for one in answers(module, X)
    )
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.equal(
        Transfer(teacher="swarm").begin(at(9, held))(module, X, Y), Transfer().begin(at(9, held))(module, X, Y)
    ), "in the warm-up it is not even looked at"


def test_who_holds_the_deepest_exit_is_its_own_teacher() -> None:
    module = loaded(VIT, VIT.whole(), alive(VIT)).eval()
    own, swarm = Transfer(teacher="own"), Transfer(teacher="swarm")
    assert torch.equal(*(one.begin(at(10, VIT.whole()))(module, X, Y) for one in (own, swarm)))


def test_a_round_shows_its_objective_the_model_that_it_began_with() -> None:
    """Round 10 is the first in which the swarm's head teaches: the same node, taught and not, differs from then on."""
    x = np.random.default_rng(0).standard_normal((48, 1, 4, 4)).astype(np.float32)
    task = Task(VIT, (x, x[:, 0, 0, :3].argmax(1)), batch_size=16, steps_per_round=1)
    kinds = ("co_s2p:transfer=off", "co_s2p:transfer=swarm")
    plays = [rounds([made(live(kind), prepare(task, 0), Terms())], [0.25], "all") for kind in kinds]
    same = [(next(plays[0]).models[0] == next(plays[1]).models[0]).all() for _ in range(12)]
    assert same == [True] * 10 + [False] * 2


# -- 2.5 staleness -----------------------------------------------------------------------------------------------------

CUT = SubModel(("exit1",))


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def test_weights_follow_the_update_and_the_drift_by_hand() -> None:
    """PAPERS.md 2.5, in units of what the model moves in a round."""
    drift = Drift()
    assert drift.factor(vector(1, 1), None, vector(0, 0), CUT, 4) == 1.0, "nothing is known yet"
    # The model moved by 2 in a round; the update is 3 large, and in time; then it is late by a round's movement of 4.
    assert drift.factor(vector(-1, 2), None, vector(1, -1), CUT, 5) == 1.5
    assert drift.factor(vector(2, 2), vector(9, -1), vector(5, -1), CUT, 6) == 1.0 / (1 + 1)
    # Two rounds between: 2 a round.
    assert drift.factor(vector(1, 1), None, vector(5, 3), CUT, 8) == 1.0


def test_an_outlier_carries_no_round() -> None:
    drift = Drift()
    drift.factor(vector(1), None, vector(0), CUT, 0)
    assert drift.factor(vector(1000), None, vector(1), CUT, 1) == FACTOR_MAX
    assert drift.factor(vector(0), None, vector(2), CUT, 2) == 1 / FACTOR_MAX
    assert drift.factor(vector(1), None, vector(2), CUT, 3) == 1.0, "the model stood still: nothing to measure by"
    assert drift.factor(vector(1), None, vector(2), SubModel(("head",)), 4) == 1.0, "another slice"


@pytest.mark.parametrize(("worth", "expected"), [(1.0, 65536), (0.5, 32768), (1e-9, 1), (1e9, WEIGHT_MAX)])
def test_the_weight_is_the_manifests_integer(worth: float, expected: int) -> None:
    assert weight_of(32, 1, CadenceConfig(), worth) == expected


# -- 2.6 and the preset ------------------------------------------------------------------------------------------------


def test_the_preset_recommends_the_semi_asynchronous_round() -> None:
    assert cadence_of("co_s2p") == SEMI_ASYNCHRONOUS
    assert (SEMI_ASYNCHRONOUS.quorum, SEMI_ASYNCHRONOUS.grace_share, SEMI_ASYNCHRONOUS.deadline_share) == (0.5, 0.25, 3)
    assert cadence_of("auto") == cadence_of("full") == CadenceConfig()


# -- mixed slices ------------------------------------------------------------------------------------------------------


def test_mixed_depths_and_widths_fold_element_by_element() -> None:
    """PAPERS.md 2.5 as decided: the mean over those who hold an element, whatever else they hold."""
    cuts = [
        VIT.whole(),
        beginning(VIT, 0.5),
        shallow(schemes.static())(VIT, seat(0.25), random.Random(0)),
        slice_of(VIT, beginning(VIT, 0.5).blocks, {"layer0.heads": [1, 3], "layer1.o": [0, 5]}),
        schemes.double_shift()(VIT, Seat(rank=1, peers=2, round=3, rates=(0.5, 0.5)), random.Random(0)),
        rolled(VIT, VIT.whole(), 2, 0),
    ]
    chance = np.random.default_rng(0)
    items = [
        Weighted(bytes([number]) * 16, 100 + number, cut, chance.normal(size=cut.size(VIT)).astype(np.float32))
        for number, cut in enumerate(cuts)
    ]
    base = genesis(VIT, 0)
    found = fold(VIT, VIT.whole(), base, items)
    assert found.tobytes() == dense_fold(VIT, VIT.whole(), base, items).tobytes()
    # The deepest head is held by the first, the windows and the frozen one.
    place = VIT.parameter_slices["head.linear.bias"]
    holders = [one for one in items if "head" in one.sub_model.blocks]
    assert len(holders) == 3
    mean = sum(one.weight * extract_bias(one) for one in holders) / sum(one.weight for one in holders)
    assert np.allclose(found[place] - base[place], mean, atol=1e-5)


def extract_bias(item: Weighted) -> Vector:
    values: Vector = np.asarray(item.values)[layout(VIT, item.sub_model)["head.linear.bias"][0]]
    return values


def test_the_plain_sum_divides_by_all_authors() -> None:
    """PAPERS.md 2.5: W + sum of s_i * Delta_i, zeros outside each slice; elements that one of two trained move half."""
    x = np.random.default_rng(0).standard_normal((48, 1, 4, 4)).astype(np.float32)
    task = Task(VIT, (x, x[:, 0, 0, :3].argmax(1)), batch_size=16, steps_per_round=2)
    moves, given = {}, {}
    for kind in ("mean", "plain"):
        preset = live(f"co_s2p:sum={kind}")
        nodes = [made(preset, prepare(task, 0, (rank, 2)), Terms(), rank) for rank in range(2)]
        played = next(rounds(nodes, [1.0, 0.25], "all"))
        moves[kind], given[kind] = played.models[0] - nodes[0].genesis, played.contributed
    first, second = given["mean"]
    assert [one.sub_model for one in given["plain"]] == [VIT.whole()] * 2
    assert first.weight == second.weight
    shallow_part = np.zeros(VIT.size, np.float32)
    scatter(VIT, shallow_part, second.sub_model, second.delta)
    assert np.array_equal(given["plain"][1].delta, shallow_part)
    assert np.allclose(moves["plain"], (first.delta + shallow_part) / 2, atol=1e-6)
    deep = VIT.parameter_slices["head.linear.weight"]
    assert np.abs(moves["mean"][deep]).max() > 0
    assert np.allclose(moves["plain"][deep], moves["mean"][deep] / 2, atol=1e-6)


def test_devices_of_all_rates_learn_together() -> None:
    """Every exit gets better, and each round's change is taken from what was received in it (PAPERS.md 2.9)."""
    x = np.random.default_rng(0).standard_normal((192, 1, 4, 4)).astype(np.float32)
    y = x[:, 0, 0, :3].argmax(1)
    task = Task(VIT, (x, y), (x, y), batch_size=16, steps_per_round=6, optimizer=lambda p: Sgd(p, lr=0.2, momentum=0.9))
    nodes = [made(PRESETS["co_s2p"], prepare(task, 0, (rank, 4)), Terms(), rank) for rank in range(4)]
    play = rounds(nodes, [1.0, 0.75, 0.5, 0.25], "all")
    played = [next(play) for _ in range(8)]
    found = nodes[0].evaluate(played[-1].models[0])
    assert found is not None
    assert list(found.widths) == list(at_exits(VIT)) == ["exit 1", "exit 2", "exit 3", "exit 4"]
    assert min(found.widths.values()) > 0.45
    assert {len(layers_of(one.sub_model)) for one in played[-1].contributed} == {1, 2, 3, 4}
    assert any(one.worth != 1.0 for one in played[-1].contributed)
