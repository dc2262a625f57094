"""Nested widths: the wider network holds the narrower one, each step trains one of them, the narrowest teaches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from p2pfusion.core.data import as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.nested import Nested, divergence, prefix, widest
from p2pfusion.core.objectives import Job, cross_entropy
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import Recipe, Sgd, loaded, train
from p2pfusion.zoo.blueprints import mlp, residual_cnn

NETS = {
    "mlp": (mlp(6, (16, 8), 3), (32, 6)),
    "cnn": (residual_cnn(1, (8, 16), 3, blocks_per_stage=1, groups=4), (8, 1, 6, 6)),
}
RATES = (0.25, 0.5, 1.0)


@pytest.fixture(params=sorted(NETS))
def net(request):
    blueprint, shape = NETS[request.param]
    generator = torch.Generator().manual_seed(1)
    return blueprint, torch.randn(shape, generator=generator), torch.randint(0, 3, shape[:1], generator=generator)


def steps(net, rates, held, count, **options):
    """`count` losses of one step each, all at the start, and the module with the gradients of the last."""
    blueprint, x, y = net
    start = extract(blueprint, genesis(blueprint, 0), held)
    objective = Nested(rates, **options)
    loss = objective.begin(Job(blueprint=blueprint, sub_model=held, start=start, loss=cross_entropy, seed=3))
    module = loaded(blueprint, held, start, scaled=False).train()
    values = []
    for _ in range(count):
        module.zero_grad()
        value = loss(module, x, y)
        value.backward()
        values.append(float(value.detach()))
    return values, module


def test_every_width_is_the_network_that_its_slice_is(net):
    blueprint, x, y = net
    model = genesis(blueprint, 0)
    values, _ = steps(net, RATES, blueprint.whole(), 40)
    alone = []
    for rate in RATES:
        width = prefix(blueprint, rate)
        network = loaded(blueprint, width, extract(blueprint, model, width), scaled=False).train()
        alone.append(float(cross_entropy(network(x), y).detach()))
    expected = sorted(alone[0] + wider for wider in alone[1:])  # the narrowest in every step, and one of the others
    assert sorted({round(value, 4) for value in values}) == pytest.approx(expected, abs=1e-4)


def test_a_narrow_step_moves_the_narrow_network_only(net):
    blueprint, *_ = net
    half, quarter = prefix(blueprint, 0.5), prefix(blueprint, 0.25)
    _, module = steps(net, (0.25,), half, 1)
    flat = np.concatenate([tensor.grad.reshape(-1).numpy() for tensor in module.parameters()])
    inside = np.zeros(half.size(blueprint), bool)
    inside[np.isin(half.positions(blueprint), quarter.positions(blueprint))] = True
    assert not flat[~inside].any()
    assert flat[inside].any()


def test_a_device_trains_no_width_beyond_its_own(net):
    blueprint, *_ = net
    quarter = prefix(blueprint, 0.25)
    assert len(set(steps(net, RATES, quarter, 12)[0])) == 1, "there is one width that it holds"
    with pytest.raises(ValueError, match="narrower than"):
        steps(net, (0.5, 1.0), quarter, 1)


@pytest.mark.parametrize(("rate", "width"), [(0.1, 0.25), (0.25, 0.25), (0.4, 0.25), (0.5, 0.5), (0.99, 0.5), (1, 1)])
def test_a_device_takes_a_width_of_the_run_and_nothing_in_between(net, rate, width):
    """What lies between two widths would be declared, weigh in the mean, and never be trained."""
    blueprint, *_ = net
    seat = Seat(rank=0, peers=1, round=7, rates=(rate,))
    assert widest(RATES)(blueprint, seat, random.Random(0)) == prefix(blueprint, width)


def test_the_narrowest_teaches_and_is_not_taught(net):
    blueprint, x, _ = net
    plain, untaught = steps(net, (0.5, 1.0), blueprint.whole(), 1)
    taught, module = steps(net, (0.5, 1.0), blueprint.whole(), 1, distill=2.0)
    model = genesis(blueprint, 0)
    half = prefix(blueprint, 0.5)
    narrow = loaded(blueprint, half, extract(blueprint, model, half), scaled=False)(x).detach()
    wide = loaded(blueprint, blueprint.whole(), model, scaled=False)(x).detach()
    extra = 2.0 * float(F.kl_div(F.log_softmax(wide, 1), F.softmax(narrow, 1), reduction="batchmean"))
    assert taught[0] == pytest.approx(plain[0] + extra, abs=1e-5)
    # By hand: the gradient of the divergence alone, with the narrowest's answer as a constant.
    whole = loaded(blueprint, blueprint.whole(), model, scaled=False).train()
    (2.0 * divergence(whole(x), narrow)).backward()
    for with_, without, alone in zip(module.parameters(), untaught.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(with_.grad - without.grad, alone.grad, atol=1e-5)


def test_divergence_of_sequences_is_the_mean_over_places():
    generator = torch.Generator().manual_seed(2)
    told, held = torch.randn(4, 5, 7, generator=generator), torch.randn(4, 5, 7, generator=generator)
    each = [divergence(held[:, :, place], told[:, :, place]) for place in range(7)]
    assert torch.allclose(divergence(held, told), torch.stack(each).mean())
    assert divergence(told, told).abs() < 1e-6


def test_training_learns_all_widths():
    blueprint = NETS["mlp"][0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, generator=generator)
    y = x[:, :3].argmax(1)
    data = as_data((x, y), 32, "train")
    recipe = Recipe(
        loss=cross_entropy,
        optimizer=lambda parameters: Sgd(parameters, lr=0.05, momentum=0.9),
        steps=200,
        objective=Nested(RATES, distill=1.0),
    )
    after = train(blueprint, blueprint.whole(), genesis(blueprint, 0), data.batches(random.Random(0)), recipe).after
    for rate in RATES:
        width = prefix(blueprint, rate)
        module = loaded(blueprint, width, extract(blueprint, after, width), scaled=False).eval()
        assert (module(x).argmax(1) == y).float().mean() > 0.6  # a third by chance


@pytest.mark.parametrize("rates", [(), (0.5, 0.25), (0.5, 0.5), (0.0, 1.0), (0.5, 1.5)])
def test_widths_that_do_not_ascend_are_refused(rates):
    with pytest.raises(ValueError, match="ascend"):
        Nested(rates)


def test_other_windows_are_refused():
    blueprint = NETS["mlp"][0]
    wrapped = SubModel.of(blueprint, {"hidden1": [(0, 2), (14, 16)], "hidden2": [(0, 4)]})
    job = Job(blueprint=blueprint, sub_model=wrapped, start=genesis(blueprint, 0), loss=cross_entropy, seed=0)
    with pytest.raises(ValueError, match="first units"):
        Nested((0.25, 0.5)).begin(job)
    with pytest.raises(ValueError, match="distill"):
        Nested((0.25, 0.5), distill=-1.0)
