"""Transformers declared by hand: a decoder-only language model and a vision Transformer, of the same layers.

What is sliced (source of the rules: PAPERS.md 1.4), by axis:

- `stream`: the residual stream of the whole network, one list for whatever is added to it: columns of all embeddings,
  every normalisation, what comes into q, k, v and the first feed-forward layer, what goes out of the others. It moves
  in units of about 1/32 of the width. A LayerNorm of a slice normalises what is kept.
- `layerN.heads`: the inside of a layer's attention in whole heads: outputs of q, k and v, inputs of o.
- `layerN.ffn`: the hidden units of a layer's feed-forward part, in units of about 1/32 of them.
- Vocabulary, positions, patches and classes are never sliced.

Whole heads, where HeteroFL and FedRolex keep every head and slice inside it: a kept head then computes what it computes
in the whole network. Its width stays, so the scores are divided by the same root at every rate, a head never takes
over another's channels (FedRolex's roll does that), and taking heads away takes away terms of a sum, which a Scaler can
correct. The price: a layer cannot have less than one head, so a rate of 1/8 needs at least eight.

How it starts. Linear layers as anywhere: uniform within 1/sqrt(fan-in). Embeddings, positions and class token: uniform
within 1/sqrt(width), a standard deviation of 1/sqrt(3 width), which is GPT-2's 0.02 at GPT-2's width; where the
embedding is the output's weight too, it is also the start of a Linear with those inputs. The two layers of each block
that write to the stream count their fan-in 2 x layers times, so that the stream does not grow with depth: GPT-2's
1/sqrt(2 layers).

Plain data; torch is loaded by `transformer_networks` only when a network is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Factory, Init, ModuleSpec, Parameter
from p2pfusion.zoo.blueprints import ONES, ZEROS, affine

if TYPE_CHECKING:
    from torch import nn

Pooling = Literal["mean", "token"]
STREAM = "stream"
UNITS = 32
"""Axes without heads move in at least so many units where their size allows: every rate down to 1/32 is met, and a
scattered slice is still gathered in runs."""
_STREAM = Dim(STREAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of a Transformer: width of the stream, how many, heads and hidden units of each, dropout 0..1.

    Raises `ValueError` for sizes below 1, heads that do not divide the width, or dropout outside 0 <= p < 1.
    """

    width: int
    layers: int
    heads: int
    ffn: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.ffn) < 1:
            raise ValueError(f"{self}: every size must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width}: must be divisible by heads = {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout!r}: must be at least 0 and below 1")

    @property
    def head_width(self) -> int:
        """Channels of one head; the same in every slice."""
        return self.width // self.heads

    @property
    def names(self) -> list[str]:
        """One block per layer."""
        return [f"layer{number}" for number in range(self.layers)]

    def axes(self) -> tuple[Axis, ...]:
        """The stream, then heads and hidden units of every layer."""
        axes = [Axis(STREAM, self.width, _unit(self.width))]
        for name in self.names:
            axes.append(Axis(f"{name}.heads", self.width, self.head_width))
            axes.append(Axis(f"{name}.ffn", self.ffn, _unit(self.ffn)))
        return tuple(axes)

    def parameters(self) -> list[Parameter]:
        """All layers, in the order in which the modules register them."""
        return [parameter for name in self.names for parameter in self._layer(name)]

    def _layer(self, name: str) -> list[Parameter]:
        heads, hidden, depth = Dim(f"{name}.heads"), Dim(f"{name}.ffn"), Dim(None, 2 * self.layers)
        parameters = norm(f"{name}.norm1", name)
        for part in "qkv":
            parameters += affine(f"{name}.attention.{part}", name, (heads, _STREAM), Init((_STREAM,)))
        parameters += affine(f"{name}.attention.o", name, (_STREAM, heads), Init((heads, depth)))
        parameters += norm(f"{name}.norm2", name)
        parameters += affine(f"{name}.ffn.linear1", name, (hidden, _STREAM), Init((_STREAM,)))
        parameters += affine(f"{name}.ffn.linear2", name, (_STREAM, hidden), Init((hidden, depth)))
        return parameters


def gpt(  # noqa: PLR0913 - the sizes of a network, each a number; by name they read like its description
    vocabulary: int,
    context: int,
    width: int,
    layers: int,
    heads: int,
    ffn: int,
    *,
    tied: bool = True,
    dropout: float = 0.0,
) -> Blueprint:
    """A decoder-only language model: pre-norm layers, causal attention, learned positions, GELU.

    Input (batch, time) int64 tokens in 0..vocabulary-1, time at most `context`; output (batch, vocabulary, time)
    logits: at every place those of the next token, the shape in which `objectives.cross_entropy` and `correct` take
    them. `tied`: the output layer's weight is the token embedding, and there is no bias; else it has both of its own.
    Raises `ValueError` as `Stack`, or for a vocabulary or context below 1.
    """
    stack = Stack(width=width, layers=layers, heads=heads, ffn=ffn, dropout=dropout)
    if min(vocabulary, context) < 1:
        raise ValueError(f"vocabulary = {vocabulary}, context = {context}: must be at least 1")
    parameters = [
        Parameter("embedding.tokens.weight", "embedding", (Dim(None, vocabulary), _STREAM), Init((_STREAM,))),
        Parameter("embedding.positions.weight", "embedding", (Dim(None, context), _STREAM), Init((_STREAM,))),
        *stack.parameters(),
        *norm("head.norm", "head"),
    ]
    if not tied:
        parameters += affine("head.linear", "head", (Dim(None, vocabulary), _STREAM), Init((_STREAM,)))

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.zoo.transformer_networks import Gpt

        return Gpt((vocabulary, context), stack, spec, is_tied=tied)

    return _blueprint(stack, parameters, factory)


def vit(  # noqa: PLR0913 - the sizes of a network, each a number; by name they read like its description
    image: int,
    patch: int,
    channels: int,
    width: int,
    layers: int,
    heads: int,
    ffn: int,
    outputs: int,
    *,
    pooling: Pooling = "mean",
    dropout: float = 0.0,
) -> Blueprint:
    """A vision Transformer: patches of `patch` x `patch` pixels, learned positions, the layers of `gpt` without a mask.

    Input (batch, channels, image, image), output (batch, outputs). The classifier reads the mean of all tokens, or
    with `pooling="token"` an extra class token. Raises `ValueError` as `Stack`, when patches do not divide the image,
    or for another pooling.
    """
    stack = Stack(width=width, layers=layers, heads=heads, ffn=ffn, dropout=dropout)
    if min(image, patch, channels, outputs) < 1 or image % patch:
        raise ValueError(f"image {image} of {channels} channels: must be divisible by patch = {patch}, all at least 1")
    if pooling not in ("mean", "token"):
        raise ValueError(f"pooling = {pooling!r}: must be 'mean' or 'token'")
    patches = (image // patch) ** 2
    has_token = pooling == "token"
    pixels = (Dim(None, channels), Dim(None, patch), Dim(None, patch))
    places = Dim(None, patches + has_token)
    token = [Parameter("embedding.class_token", "embedding", (_STREAM,), Init((_STREAM,)))] if has_token else []
    parameters = [
        *token,
        *affine("embedding.patches", "embedding", (_STREAM, *pixels), Init(pixels)),
        Parameter("embedding.positions.weight", "embedding", (places, _STREAM), Init((_STREAM,))),
        *stack.parameters(),
        *norm("head.norm", "head"),
        *affine("head.linear", "head", (Dim(None, outputs), _STREAM), Init((_STREAM,))),
    ]

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.zoo.transformer_networks import Vit

        return Vit((channels, patch, patches), outputs, stack, spec, has_token=has_token)

    return _blueprint(stack, parameters, factory)


def norm(name: str, block: str) -> list[Parameter]:
    """A LayerNorm over the stream."""
    return affine(name, block, (_STREAM,), ONES, ZEROS)


def _blueprint(stack: Stack, parameters: list[Parameter], factory: Factory) -> Blueprint:
    blocks = ("embedding", *stack.names, "head")
    return Blueprint(blocks, stack.axes(), tuple(parameters), factory, output_layer="head.linear")


def _unit(size: int) -> int:
    """The largest unit that divides `size` and leaves at least `UNITS` of them; 1 where there is none."""
    return max((unit for unit in range(1, size // UNITS + 1) if size % unit == 0), default=1)
