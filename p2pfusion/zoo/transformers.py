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

from typing import TYPE_CHECKING, Literal

from p2pfusion.core.blueprint import Blueprint, Dim, Factory, Init, ModuleSpec, Parameter
from p2pfusion.core.exits import HEAD, ends_of
from p2pfusion.zoo.blueprints import affine
from p2pfusion.zoo.transformer_stack import Stack, norm

if TYPE_CHECKING:
    from torch import nn

Pooling = Literal["mean", "token"]


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


def _blueprint(stack: Stack, parameters: list[Parameter], factory: Factory) -> Blueprint:
    blocks, ends = ("embedding", *stack.names, *stack.heads_behind), ends_of("embedding", stack.names, stack.exits)
    return Blueprint(blocks, stack.axes(), tuple(parameters), factory, output_layer=f"{HEAD}.linear", exits=ends)
