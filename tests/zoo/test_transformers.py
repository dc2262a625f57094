"""Transformers: they compute what torch's own do, and a slice is the whole network with the rest at zero."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import correct, cross_entropy
from p2pfusion.core.schemes import Scheme, Seat, double_shift, random_dropout, rolling
from p2pfusion.core.submodel import SubModel, extract, scatter
from p2pfusion.core.training import loaded
from p2pfusion.zoo.transformer_networks import TransformerLayer
from p2pfusion.zoo.transformers import Stack, gpt, vit

VOCABULARY, CONTEXT = 11, 9
NETWORKS: dict[str, Callable[[], Blueprint]] = {
    "gpt": lambda: gpt(VOCABULARY, CONTEXT, 64, 2, 4, 96),
    "untied": lambda: gpt(VOCABULARY, CONTEXT, 64, 2, 4, 96, tied=False),
    "mean": lambda: vit(8, 4, 3, 64, 2, 4, 96, 5),
    "token": lambda: vit(8, 4, 3, 64, 2, 4, 96, 5, pooling="token"),
}


@pytest.fixture(params=NETWORKS)
def blueprint(request: pytest.FixtureRequest) -> Blueprint:
    return NETWORKS[request.param]()


def inputs(blueprint: Blueprint, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if blueprint.parameters[0].name == "embedding.tokens.weight":
        return torch.randint(VOCABULARY, (3, CONTEXT), generator=generator)
    return torch.randn(3, 3, 8, 8, generator=generator)


def alive(blueprint: Blueprint, seed: int) -> np.ndarray:
    """Values none of which is 0 or 1 by construction, so that every bias and norm counts."""
    values = np.random.default_rng(seed).normal(0, 0.2, blueprint.size)
    return values.astype(np.float32)


def sliced(blueprint: Blueprint, scheme: Scheme, rate: float) -> SubModel:
    return scheme(blueprint, Seat(rank=0, peers=2, round=3, rates=(rate, rate)), random.Random(5))


def masked(blueprint: Blueprint, sub_model: SubModel, values: np.ndarray) -> nn.Module:
    """The whole network whose values are zero outside the sub-model, in eval mode."""
    zeroed = np.zeros_like(values)
    scatter(blueprint, zeroed, sub_model, extract(blueprint, values, sub_model))
    return loaded(blueprint, blueprint.whole(), zeroed).eval()


class KeptNorm(nn.Module):
    """A LayerNorm that looks at the kept channels only and leaves zeros elsewhere."""

    def __init__(self, norm: nn.LayerNorm, kept: torch.Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.kept
        out = torch.zeros_like(x)
        out[..., kept] = F.layer_norm(x[..., kept], (len(kept),), self.norm.weight[kept], self.norm.bias[kept])
        return out


def norms_of(module: nn.Module) -> list[tuple[nn.Module, str]]:
    parents = [(name.rpartition(".")) for name, inner in module.named_modules() if isinstance(inner, nn.LayerNorm)]
    return [(module.get_submodule(parent), name) for parent, _, name in parents]


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_layer_is_torchs_own(is_causal: bool) -> None:
    whole = NETWORKS["gpt" if is_causal else "mean"]()
    ours = loaded(whole, whole.whole(), alive(whole, 1)).eval().get_submodule("layer1")
    assert isinstance(ours, TransformerLayer)
    theirs = nn.TransformerEncoderLayer(64, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
    state = {name.replace("attention.o", "self_attn.out_proj"): value for name, value in ours.state_dict().items()}
    for kind in ("weight", "bias"):
        parts = [state.pop(f"attention.{part}.{kind}") for part in "qkv"]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    theirs.load_state_dict({name.removeprefix("ffn."): value for name, value in state.items()})
    x = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(2))
    mask = nn.Transformer.generate_square_subsequent_mask(7) if is_causal else None
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask, is_causal=is_causal))


def test_the_whole_slice_is_the_module_to_the_last_bit(blueprint: Blueprint) -> None:
    values, x = alive(blueprint, 2), inputs(blueprint)
    state = torch.get_rng_state()
    as_slice = loaded(blueprint, blueprint.whole(), values).train()
    by_itself = loaded(blueprint, blueprint.whole(), values, scaled=False).eval()
    assert torch.equal(as_slice(x), by_itself(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert by_itself(x).shape == ((3, VOCABULARY, CONTEXT) if x.dim() == 2 else (3, 5))


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_heads_and_hidden_units_that_are_left_out_are_zeros_exactly(data: st.DataObject) -> None:
    blueprint = NETWORKS[data.draw(st.sampled_from(sorted(NETWORKS)))]()
    kept = {}
    for axis in blueprint.axes[1:]:
        units = data.draw(st.sets(st.integers(0, axis.units - 1), min_size=1))
        kept[axis.name] = [(unit * axis.unit, (unit + 1) * axis.unit) for unit in units]
    sub_model = SubModel.of(blueprint, kept)
    values, x = alive(blueprint, 3), inputs(blueprint)
    narrow = loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).eval()
    torch.testing.assert_close(narrow(x), masked(blueprint, sub_model, values)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", [rolling(), double_shift(), random_dropout()])
@pytest.mark.parametrize("rate", [0.5, 0.125])
def test_a_slice_of_every_axis_is_the_zeroed_network_whose_norms_see_what_is_kept(
    blueprint: Blueprint, scheme: Scheme, rate: float
) -> None:
    sub_model = sliced(blueprint, scheme, rate)
    values, x = alive(blueprint, 4), inputs(blueprint)
    narrow = loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).eval()
    assert sum(tensor.numel() for tensor in narrow.parameters()) == sub_model.size(blueprint)
    whole = masked(blueprint, sub_model, values)
    kept = torch.from_numpy(sub_model.indices(blueprint, "stream"))
    for parent, name in norms_of(whole):
        setattr(parent, name, KeptNorm(parent.get_submodule(name), kept))
    torch.testing.assert_close(narrow(x), whole(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(narrow(x), masked(blueprint, sub_model, values)(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("axis", "part"), [("layer0.heads", "attention"), ("layer0.ffn", "ffn")])
def test_in_training_all_windows_together_give_what_the_whole_gives(axis: str, part: str) -> None:
    blueprint = NETWORKS["gpt"]()
    values, found = alive(blueprint, 5), blueprint.axis(axis)
    x = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(3))

    def branch(sub_model: SubModel) -> torch.Tensor:
        module = loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).train()
        return module.get_submodule(f"layer0.{part}")(x)

    windows = [(start, start + found.size // 4) for start in range(0, found.size, found.size // 4)]
    mean = torch.stack([branch(SubModel.of(blueprint, {axis: [window]})) for window in windows]).mean(0)
    torch.testing.assert_close(mean, branch(blueprint.whole()), rtol=1e-4, atol=1e-4)


READERS = {"norm1": ("attention.q", "attention.k", "attention.v"), "norm2": ("ffn.linear1",), "norm": ("linear",)}
"""What reads each norm of a layer or of the head."""


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_in_training_whatever_reads_the_stream_gets_it_over_its_rate(blueprint: Blueprint, rate: float) -> None:
    sub_model = sliced(blueprint, rolling(), rate)
    module = loaded(blueprint, sub_model, extract(blueprint, alive(blueprint, 11), sub_model)).train()
    said: dict[nn.Module, torch.Tensor] = {}
    heard: dict[nn.Module, torch.Tensor] = {}
    pairs = []
    for parent, name in norms_of(module):
        norm = parent.get_submodule(name)
        norm.register_forward_hook(lambda inner, _, output: said.update({inner: output}))
        for reader in map(parent.get_submodule, READERS[name]):
            reader.register_forward_pre_hook(lambda inner, x: heard.update({inner: x[0]}))
            pairs.append((norm, reader))
    module(inputs(blueprint))
    assert len(pairs) == 9
    for norm, reader in pairs:
        told = said[norm].mean(1) if said[norm].dim() > heard[reader].dim() else said[norm]
        torch.testing.assert_close(heard[reader], told / rate)


@pytest.mark.parametrize("place", [0, 4, CONTEXT - 1])
def test_nothing_is_seen_of_what_comes_later(place: int) -> None:
    blueprint = NETWORKS["gpt"]()
    module = loaded(blueprint, blueprint.whole(), alive(blueprint, 6)).eval()
    x = inputs(blueprint)
    changed = x.clone()
    changed[:, place] = (x[:, place] + 1) % VOCABULARY
    before, after = module(x), module(changed)
    torch.testing.assert_close(after[:, :, :place], before[:, :, :place], rtol=1e-6, atol=1e-6)
    assert all((after[:, :, later] - before[:, :, later]).abs().max() > 1e-3 for later in range(place, CONTEXT))
    torch.testing.assert_close(module(x[:, : place + 1]), before[:, :, : place + 1])


def test_every_token_of_an_image_sees_every_other() -> None:
    blueprint = NETWORKS["token"]()
    module = loaded(blueprint, blueprint.whole(), alive(blueprint, 7)).eval()
    x = inputs(blueprint)
    for row, column in ((0, 0), (7, 7)):
        changed = x.clone()
        changed[:, :, row, column] += 1
        assert (module(changed) - module(x)).abs().max() > 1e-3


def test_tied_weights_are_one_tensor_and_count_once() -> None:
    tied, untied = NETWORKS["gpt"](), NETWORKS["untied"]()
    assert untied.size - tied.size == VOCABULARY * 64 + VOCABULARY
    module = loaded(tied, tied.whole(), alive(tied, 8))
    assert module.get_parameter("head.linear.weight") is module.get_parameter("embedding.tokens.weight")


HETEROFL = {1.0: 19_263_486, 0.5: 9_107_710, 0.25: 4_435_326, 0.125: 2_200_510}


@pytest.mark.parametrize("rate", HETEROFL)
def test_parameters_are_heterofls_but_for_its_second_last_layer_and_its_mask(rate: float) -> None:
    """PAPERS.md 1.9. Theirs has one more Linear with a norm before the logits, and a row for the masked token; its norm
    behind the embedding is ours before the logits."""
    width = round(256 * rate)
    missing = width**2 + width + 2 * width + width
    assert gpt(33_278, 64, 256, 4, 8, 512, tied=False).narrow(rate).size == HETEROFL[rate] - missing


@pytest.mark.parametrize("layers", [1, 8])
def test_a_fresh_network_knows_nothing_however_deep_it_is(layers: int) -> None:
    blueprint = gpt(500, 16, 64, layers, 8, 128, tied=False)
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 0)).eval()
    streams = []
    module.get_submodule("head.norm").register_forward_pre_hook(lambda _, x: streams.append(x[0].detach().std().item()))
    x = torch.randint(500, (4, 16), generator=torch.Generator().manual_seed(1))
    loss = float(cross_entropy(module(x), x.roll(1)).detach())
    assert loss == pytest.approx(math.log(500), abs=0.3)
    assert streams[0] < 0.5


def test_loss_and_accuracy_take_a_language_models_output() -> None:
    blueprint = NETWORKS["gpt"]()
    x = inputs(blueprint)
    output = loaded(blueprint, blueprint.whole(), alive(blueprint, 9)).eval()(x)
    assert output.stride(1) == 1
    torch.testing.assert_close(cross_entropy(output, x), F.cross_entropy(output.contiguous(), x))
    likely = output.argmax(1)
    assert correct(output, likely) == x.numel()


def test_dropout_works_in_training_only() -> None:
    blueprint = gpt(VOCABULARY, CONTEXT, 64, 2, 4, 96, dropout=0.5)
    module, x = loaded(blueprint, blueprint.whole(), alive(blueprint, 10)), inputs(blueprint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(module.train()(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


def test_axes_move_in_whole_heads_and_32_units_where_sizes_allow() -> None:
    units = {axis.name: (axis.unit, axis.units) for axis in gpt(9, 9, 256, 1, 8, 97).axes}
    assert units == {"stream": (8, 32), "layer0.heads": (32, 8), "layer0.ffn": (1, 97)}


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: gpt(9, 9, 60, 1, 8, 64), "divisible by heads"),
        (lambda: gpt(9, 0, 64, 1, 8, 64), "context = 0"),
        (lambda: gpt(9, 9, 64, 0, 8, 64), "at least 1"),
        (lambda: gpt(9, 9, 64, 1, 8, 64, dropout=1.0), "dropout"),
        (lambda: vit(10, 4, 3, 64, 1, 8, 64, 5), "divisible by patch"),
        (lambda: vit(8, 4, 3, 64, 1, 8, 64, 5, pooling="max"), "pooling"),  # type: ignore[arg-type]
        (lambda: Stack(width=8, layers=1, heads=1, ffn=0), "at least 1"),
    ],
)
def test_impossible_sizes_are_refused(make: Callable[[], object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make()


def test_a_text_longer_than_the_context_is_refused() -> None:
    blueprint = NETWORKS["gpt"]()
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 0))
    with pytest.raises(ValueError, match="at most 9"):
        module(torch.zeros(1, CONTEXT + 1, dtype=torch.int64))
