"""Transformers declared by hand: a decoder-only language model and a vision Transformer, of the same layers.

What is sliced (source of the rules: PAPERS.md 1.4), by axis:

- `stream`: the residual stream of the whole network, one list for whatever is added to it: columns of all embeddings,
  every normalisation, what comes into q, k, v and the first feed-forward layer, what goes out of the others. It moves
  in units of about 1/32 of the width. A LayerNorm of a slice normalises what is kept.
- `layerN.heads`: the inside of a layer's attention in whole heads: outputs of q, k and v, inputs of o.
- `layerN.ffn`: the hidden units of a layer's feed-forward part, in units of about 1/32 of them.
- Vocabulary, positions, patches and classes are never sliced.

With `exits` the stream is whole, so that slices of any depth and width meet in it, and two axes more are cut in each
layer instead: `layerN.o` and `layerN.linear2`, the outputs of these two layers. What a slice's layer says is added to
the channels of the stream where it stands in the whole network (PAPERS.md 2.3). Heads stand behind
`core.exits.depths` layers; the last is the network's own.

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
from p2pfusion.core.exits import HEAD, ends_of, heads_behind
from p2pfusion.zoo.blueprints import ONES, ZEROS, affine

if TYPE_CHECKING:
    from torch import nn

Pooling = Literal["mean", "token"]
STREAM = "stream"
UNITS = 32
"""Axes without heads move in at least so many units where their size allows: every rate down to 1/32 is met, and a
scattered slice is still gathered in runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of a Transformer: width of the stream, how many, heads and hidden units of each, dropout 0..1.

    `exits`: places where it can answer, its end among them; 0: its end only, and the stream is an axis. Raises
    `ValueError` for sizes below 1, heads that do not divide the width, dropout outside 0 <= p < 1, more exits than
    layers.
    """

    width: int
    layers: int
    heads: int
    ffn: int
    dropout: float = 0.0
    exits: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.ffn) < 1:
            raise ValueError(f"{self}: every size must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width}: must be divisible by heads = {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout!r}: must be at least 0 and below 1")
        heads_behind(self.layers, self.exits)

    @property
    def head_width(self) -> int:
        """Channels of one head; the same in every slice."""
        return self.width // self.heads

    @property
    def names(self) -> list[str]:
        """One block per layer."""
        return [f"layer{number}" for number in range(self.layers)]

    @property
    def stream(self) -> Dim:
        """The residual stream: an axis, or whole where there are exits."""
        return Dim(None, self.width) if self.exits else Dim(STREAM)

    @property
    def heads_behind(self) -> dict[str, int]:
        """Block of each exit's head -> how many layers stand before it, the shallowest first, the end last."""
        return heads_behind(self.layers, self.exits)

    def axes(self) -> tuple[Axis, ...]:
        """The stream where it is one, then heads, hidden units and perhaps outputs of every layer."""
        axes = [] if self.exits else [Axis(STREAM, self.width, _unit(self.width))]
        for name in self.names:
            axes.append(Axis(f"{name}.heads", self.width, self.head_width))
            axes.append(Axis(f"{name}.ffn", self.ffn, _unit(self.ffn)))
            if self.exits:
                axes += [Axis(f"{name}.{part}", self.width, _unit(self.width)) for part in ("o", "linear2")]
        return tuple(axes)

    def parameters(self) -> list[Parameter]:
        """All layers, in the order in which the modules register them."""
        return [parameter for name in self.names for parameter in self._layer(name)]

    def _layer(self, name: str) -> list[Parameter]:
        heads, hidden, depth = Dim(f"{name}.heads"), Dim(f"{name}.ffn"), Dim(None, 2 * self.layers)
        stream = self.stream
        attended, fed = [Dim(f"{name}.{part}") if self.exits else stream for part in ("o", "linear2")]
        parameters = norm(f"{name}.norm1", name, stream)
        for part in "qkv":
            parameters += affine(f"{name}.attention.{part}", name, (heads, stream), Init((stream,)))
        parameters += affine(f"{name}.attention.o", name, (attended, heads), Init((heads, depth)))
        parameters += norm(f"{name}.norm2", name, stream)
        parameters += affine(f"{name}.ffn.linear1", name, (hidden, stream), Init((stream,)))
        parameters += affine(f"{name}.ffn.linear2", name, (fed, hidden), Init((hidden, depth)))
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
    exits: int = 0,
) -> Blueprint:
    """A decoder-only language model: pre-norm layers, causal attention, learned positions, GELU.

    Input (batch, time) int64 tokens in 0..vocabulary-1, time at most `context`; output (batch, vocabulary, time)
    logits: at every place those of the next token, the shape in which `objectives.cross_entropy` and `correct` take
    them. `tied`: the output layer's weight is the token embedding, and there is no bias; else it has both of its own;
    at every exit, if there are `exits` (`Stack`). Raises `ValueError` as `Stack`, or for a vocabulary or context below
    1.
    """
    stack = Stack(width=width, layers=layers, heads=heads, ffn=ffn, dropout=dropout, exits=exits)
    if min(vocabulary, context) < 1:
        raise ValueError(f"vocabulary = {vocabulary}, context = {context}: must be at least 1")
    stream, words = stack.stream, Dim(None, vocabulary)
    parameters = [
        Parameter("embedding.tokens.weight", "embedding", (words, stream), Init((stream,))),
        Parameter("embedding.positions.weight", "embedding", (Dim(None, context), stream), Init((stream,))),
        *stack.parameters(),
    ]
    for head in stack.heads_behind:
        parameters += norm(f"{head}.norm", head, stream)
        parameters += [] if tied else affine(f"{head}.linear", head, (words, stream), Init((stream,)))

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
    exits: int = 0,
) -> Blueprint:
    """A vision Transformer: patches of `patch` x `patch` pixels, learned positions, the layers of `gpt` without a mask.

    Input (batch, channels, image, image), output (batch, outputs). The classifier reads the mean of all tokens, or
    with `pooling="token"` an extra class token. `exits`: places where it can answer (`Stack`). Raises `ValueError` as
    `Stack`, when patches do not divide the image, or for another pooling.
    """
    stack = Stack(width=width, layers=layers, heads=heads, ffn=ffn, dropout=dropout, exits=exits)
    if min(image, patch, channels, outputs) < 1 or image % patch:
        raise ValueError(f"image {image} of {channels} channels: must be divisible by patch = {patch}, all at least 1")
    if pooling not in ("mean", "token"):
        raise ValueError(f"pooling = {pooling!r}: must be 'mean' or 'token'")
    patches = (image // patch) ** 2
    has_token = pooling == "token"
    pixels = (Dim(None, channels), Dim(None, patch), Dim(None, patch))
    places = Dim(None, patches + has_token)
    stream = stack.stream
    token = [Parameter("embedding.class_token", "embedding", (stream,), Init((stream,)))] if has_token else []
    parameters = [
        *token,
        *affine("embedding.patches", "embedding", (stream, *pixels), Init(pixels)),
        Parameter("embedding.positions.weight", "embedding", (places, stream), Init((stream,))),
        *stack.parameters(),
    ]
    for head in stack.heads_behind:
        parameters += norm(f"{head}.norm", head, stream)
        parameters += affine(f"{head}.linear", head, (Dim(None, outputs), stream), Init((stream,)))

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.zoo.transformer_networks import Vit

        return Vit((channels, patch, patches), outputs, stack, spec, has_token=has_token)

    return _blueprint(stack, parameters, factory)


def norm(name: str, block: str, stream: Dim) -> list[Parameter]:
    """A LayerNorm over the stream."""
    return affine(name, block, (stream,), ONES, ZEROS)


def _blueprint(stack: Stack, parameters: list[Parameter], factory: Factory) -> Blueprint:
    blocks, ends = ("embedding", *stack.names, *stack.heads_behind), ends_of("embedding", stack.names, stack.exits)
    return Blueprint(blocks, stack.axes(), tuple(parameters), factory, output_layer=f"{HEAD}.linear", exits=ends)


def _unit(size: int) -> int:
    """The largest unit that divides `size` and leaves at least `UNITS` of them; 1 where there is none."""
    return max((unit for unit in range(1, size // UNITS + 1) if size % unit == 0), default=1)
