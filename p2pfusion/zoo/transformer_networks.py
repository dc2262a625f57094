"""The torch modules behind `transformers`: width-parametric, with a Scaler wherever a layer's inputs are sliced.

Where the Scalers stand: behind a LayerNorm for everything that reads the stream; on the values of an attention, which
is linear in them, so that this is the input of `o` divided, without a second copy of it for backpropagation; behind the
GELU, which is not homogeneous, for the second feed-forward layer. All of them divide what a Linear keeps anyway.

They take widths and build; which width somebody gets, and why, is not known here. Parameters are not initialised:
genesis or a slice fills them.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import ModuleSpec
from p2pfusion.core.layers import empty_layer
from p2pfusion.core.scaler import Scaler
from p2pfusion.zoo.transformers import STREAM, Stack


class Attention(nn.Module):
    """o(softmax(q k' / sqrt(head width)) v) over the kept heads, each of full width."""

    def __init__(self, stack: Stack, spec: ModuleSpec, axis: str, *, is_causal: bool) -> None:
        super().__init__()
        width, inside = spec.widths[STREAM], spec.widths[axis]
        self._head_width, self._is_causal = stack.head_width, is_causal
        self.q = empty_layer(nn.Linear, width, inside)
        self.k = empty_layer(nn.Linear, width, inside)
        self.v = empty_layer(nn.Linear, width, inside)
        self.scaler = Scaler(spec.rate(axis))
        self.o = empty_layer(nn.Linear, inside, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, stream) -> the same."""
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.scaler(self.v(x)))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self._is_causal)
        out: torch.Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, heads * head width) -> (batch, heads, time, head width)."""
        batch, time, _ = x.shape
        return x.view(batch, time, -1, self._head_width).transpose(1, 2)


class FeedForward(nn.Sequential):
    """linear2(gelu(linear1(x))) with the exact GELU."""

    def __init__(self, width: int, hidden: int, rate: float) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["linear1"] = empty_layer(nn.Linear, width, hidden)
        layers["gelu"] = nn.GELU()
        layers["scaler"] = Scaler(rate)
        layers["linear2"] = empty_layer(nn.Linear, hidden, width)
        super().__init__(layers)


class TransformerLayer(nn.Module):
    """x + attention(norm1(x)), then x + ffn(norm2(x)); dropout on what is added."""

    def __init__(self, stack: Stack, spec: ModuleSpec, name: str, *, is_causal: bool) -> None:
        super().__init__()
        width, rate = spec.widths[STREAM], spec.rate(STREAM)
        self.norm1 = nn.LayerNorm(width)
        self.scaler1 = Scaler(rate)
        self.attention = Attention(stack, spec, f"{name}.heads", is_causal=is_causal)
        self.norm2 = nn.LayerNorm(width)
        self.scaler2 = Scaler(rate)
        self.ffn = FeedForward(width, spec.widths[f"{name}.ffn"], spec.rate(f"{name}.ffn"))
        self.dropout = nn.Dropout(stack.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, stream) -> the same."""
        x = x + self.dropout(self.attention(self.scaler1(self.norm1(x))))
        out: torch.Tensor = x + self.dropout(self.ffn(self.scaler2(self.norm2(x))))
        return out


class _Transformer(nn.Module):
    """Embedding, layers, head; parameters are registered in this order."""

    def __init__(self, embedding: nn.Module, stack: Stack, spec: ModuleSpec, *, is_causal: bool) -> None:
        super().__init__()
        self.embedding = embedding
        self._names = stack.names
        for name in self._names:
            self.add_module(name, TransformerLayer(stack, spec, name, is_causal=is_causal))

    def chain(self) -> list[str]:
        """The modules that run one after the other; a chain of hops is cut between them (`core.stages`)."""
        return ["embedding", *self._names, "head"]

    def _stream(self, x: torch.Tensor) -> torch.Tensor:
        """What comes in -> (batch, time, stream) before the head."""
        x = self.embedding(x)
        for name in self._names:
            x = self.get_submodule(name)(x)
        return x


class Gpt(_Transformer):
    """`transformers.gpt`."""

    def __init__(self, sizes: tuple[int, int], stack: Stack, spec: ModuleSpec, *, is_tied: bool) -> None:
        embedding = TokenEmbedding(sizes, spec.widths[STREAM], stack.dropout)
        super().__init__(embedding, stack, spec, is_causal=True)
        self.head = LanguageHead(spec, sizes[0], embedding.tokens if is_tied else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time) int64 -> (batch, vocabulary, time). Raises `ValueError` for more time than context."""
        out: torch.Tensor = self.head(self._stream(x))
        return out


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
    """`transformers.vit`; `sizes` are channels, patch and the number of patches."""

    def __init__(
        self, sizes: tuple[int, int, int], outputs: int, stack: Stack, spec: ModuleSpec, *, has_token: bool
    ) -> None:
        embedding = PatchEmbedding(sizes, spec.widths[STREAM], stack.dropout, has_token=has_token)
        super().__init__(embedding, stack, spec, is_causal=False)
        self.head = ImageHead(spec, outputs, has_token=has_token)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, image, image) -> (batch, outputs)."""
        out: torch.Tensor = self.head(self._stream(x))
        return out


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
