"""The torch modules behind `transformers`: width-parametric, with a Scaler wherever a layer's inputs are sliced.

Where the Scalers stand: behind a LayerNorm for everything that reads the stream; on the values of an attention, which
is linear in them, so that this is the input of `o` divided, without a second copy of it for backpropagation; behind the
GELU, which is not homogeneous, for the second feed-forward layer. All of them divide what a Linear keeps anyway.

They take widths and build; which width somebody gets, and why, is not known here. Parameters are not initialised:
genesis or a slice fills them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import ModuleSpec
from p2pfusion.core.layers import empty_layer
from p2pfusion.core.scaler import Scaler
from p2pfusion.zoo.streams import Added, Answering, whole_streams
from p2pfusion.zoo.transformer_stack import STREAM, Stack


class Attention(nn.Module):
    """o(softmax(q k' / sqrt(head width)) v) over the kept heads, each of full width; `out` channels of the stream."""

    def __init__(self, stack: Stack, spec: ModuleSpec, axis: str, out: int, *, is_causal: bool) -> None:
        super().__init__()
        width, inside = spec.widths[STREAM], spec.widths[axis]
        self._head_width, self._is_causal = stack.head_width, is_causal
        self.q = empty_layer(nn.Linear, width, inside)
        self.k = empty_layer(nn.Linear, width, inside)
        self.v = empty_layer(nn.Linear, width, inside)
        self.scaler = Scaler(spec.rate(axis))
        self.o = empty_layer(nn.Linear, inside, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, stream) -> (batch, time, out)."""
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.scaler(self.v(x)))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self._is_causal)
        out: torch.Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, heads * head width) -> (batch, heads, time, head width)."""
        batch, time, _ = x.shape
        return x.view(batch, time, -1, self._head_width).transpose(1, 2)


class FeedForward(nn.Sequential):
    """linear2(gelu(linear1(x))) with the exact GELU; `out` channels of the stream."""

    def __init__(self, width: int, hidden: int, out: int, rate: float) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["linear1"] = empty_layer(nn.Linear, width, hidden)
        layers["gelu"] = nn.GELU()
        layers["scaler"] = Scaler(rate)
        layers["linear2"] = empty_layer(nn.Linear, hidden, out)
        super().__init__(layers)


class TransformerLayer(nn.Module):
    """x + attention(norm1(x)), then x + ffn(norm2(x)); dropout on what is added."""

    def __init__(self, stack: Stack, spec: ModuleSpec, name: str, *, is_causal: bool) -> None:
        super().__init__()
        width, rate = spec.widths[STREAM], spec.rate(STREAM)
        self.attended = Added(spec, f"{name}.o", width)
        self.fed = Added(spec, f"{name}.linear2", width)
        self.norm1 = nn.LayerNorm(width)
        self.scaler1 = Scaler(rate)
        self.attention = Attention(stack, spec, f"{name}.heads", self.attended.channels, is_causal=is_causal)
        self.norm2 = nn.LayerNorm(width)
        self.scaler2 = Scaler(rate)
        hidden = f"{name}.ffn"
        self.ffn = FeedForward(width, spec.widths[hidden], self.fed.channels, spec.rate(hidden))
        self.dropout = nn.Dropout(stack.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, stream) -> the same."""
        x = self.attended(x, self.dropout(self.attention(self.scaler1(self.norm1(x)))))
        out: torch.Tensor = self.fed(x, self.dropout(self.ffn(self.scaler2(self.norm2(x)))))
        return out


class _Transformer(Answering):
    """Embedding, the layers it holds, the heads it holds; parameters are registered in this order."""

    def __init__(
        self,
        embedding: nn.Module,
        head: Callable[[], nn.Module],
        stack: Stack,
        spec: ModuleSpec,
        *,
        is_causal: bool,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        names = [name for name in stack.names if name in spec.blocks]
        heads = {name: depth for name, depth in stack.heads_behind.items() if name in spec.blocks}
        for name in names:
            self.add_module(name, TransformerLayer(stack, spec, name, is_causal=is_causal))
        for name in heads:
            self.add_module(name, head())
        self.arrange("embedding", names, heads)


class Gpt(_Transformer):
    """`transformers.gpt`: (batch, time) int64 -> (batch, vocabulary, time).

    Raises `ValueError` for more time than context.
    """

    def __init__(self, sizes: tuple[int, int], stack: Stack, spec: ModuleSpec, *, is_tied: bool) -> None:
        spec = whole_streams(spec, {STREAM: stack.width} if stack.exits else {})
        embedding = TokenEmbedding(sizes, spec.widths[STREAM], stack.dropout)
        tied = embedding.tokens if is_tied else None
        super().__init__(embedding, lambda: LanguageHead(spec, sizes[0], tied), stack, spec, is_causal=True)


class TokenEmbedding(nn.Module):
    """Tokens and positions, added; `sizes` are vocabulary and context."""

    def __init__(self, sizes: tuple[int, int], width: int, dropout: float) -> None:
        super().__init__()
        vocabulary, context = sizes
        self._context = context
        self.tokens = empty_layer(nn.Embedding, vocabulary, width)
        self.positions = empty_layer(nn.Embedding, context, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time) int64 -> (batch, time, stream)."""
        time = x.shape[1]
        if time > self._context:
            raise ValueError(f"{time} tokens in a row; cut the text into pieces of at most {self._context}")
        out: torch.Tensor = self.dropout(self.tokens(x) + self.positions(torch.arange(time, device=x.device)))
        return out


class LanguageHead(nn.Module):
    """Norm and logits; with `tied` (the token embedding) the weight is its, and there is no bias."""

    def __init__(self, spec: ModuleSpec, vocabulary: int, tied: nn.Module | None) -> None:
        super().__init__()
        width = spec.widths[STREAM]
        self.norm = nn.LayerNorm(width)
        self.scaler = Scaler(spec.rate(STREAM))
        self.linear = empty_layer(nn.Linear, width, vocabulary, bias=tied is None)
        if tied is not None:
            self.linear.weight = tied.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, stream) -> (batch, vocabulary, time), a view whose vocabulary lies together in memory."""
        logits: torch.Tensor = self.linear(self.scaler(self.norm(x)))
        return logits.transpose(1, 2)


class Vit(_Transformer):
    """`transformers.vit`: (batch, channels, image, image) -> (batch, outputs).

    `sizes` are channels, patch and the number of patches.
    """

    def __init__(
        self, sizes: tuple[int, int, int], outputs: int, stack: Stack, spec: ModuleSpec, *, has_token: bool
    ) -> None:
        spec = whole_streams(spec, {STREAM: stack.width} if stack.exits else {})
        embedding = PatchEmbedding(sizes, spec.widths[STREAM], stack.dropout, has_token=has_token)
        super().__init__(embedding, lambda: ImageHead(spec, outputs, has_token=has_token), stack, spec, is_causal=False)


class PatchEmbedding(nn.Module):
    """Patches through one Linear (a convolution without overlap), a class token in front if asked for, positions."""

    class_token: nn.Parameter

    def __init__(self, sizes: tuple[int, int, int], width: int, dropout: float, *, has_token: bool) -> None:
        super().__init__()
        channels, patch, patches = sizes
        self._has_token = has_token
        if has_token:
            self.class_token = nn.Parameter(torch.empty(width))
        self.patches = empty_layer(nn.Conv2d, channels, width, patch, stride=patch)
        self.positions = empty_layer(nn.Embedding, patches + has_token, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, image, image) -> (batch, tokens, stream)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self._has_token:
            tokens = torch.cat([self.class_token.expand(len(x), 1, -1), tokens], dim=1)
        out: torch.Tensor = self.dropout(tokens + self.positions(torch.arange(tokens.shape[1], device=x.device)))
        return out


class ImageHead(nn.Module):
    """Norm, the mean of all tokens or the first of them, classifier."""

    def __init__(self, spec: ModuleSpec, outputs: int, *, has_token: bool) -> None:
        super().__init__()
        self._has_token = has_token
        self.norm = nn.LayerNorm(spec.widths[STREAM])
        self.scaler = Scaler(spec.rate(STREAM))
        self.linear = empty_layer(nn.Linear, spec.widths[STREAM], outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, stream) -> (batch, outputs)."""
        pooled = self.norm(x[:, 0]) if self._has_token else self.norm(x).mean(dim=1)
        out: torch.Tensor = self.linear(self.scaler(pooled))
        return out
