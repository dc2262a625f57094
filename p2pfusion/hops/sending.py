"""Sending activations and gradients on, while the next batch is computed; and telling an owner when that fails.

Sends of one device run side by side, a few per neighbour as its connections allow. What is sent is made into bytes in
the executor. With `topk` only the largest tenth of a gradient travels, with `feedback`. Activations go as `bf16` then:
they are not increments, nothing of one batch makes up for what is missing of another. Knows neither copies nor rounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from p2pfusion.errors import RemoteError
from p2pfusion.hops.feedback import CODEC, Feedback
from p2pfusion.hops.switchboard import Switchboard
from p2pfusion.seams import Compute, Reply, Request
from p2pfusion.wire import tensors
from p2pfusion.wire.hops import Passage, Take, Word, encode_passage, encode_word

HOP_DEADLINE_S = 60.0
"""One tensor on its way to a neighbour: 16 MiB on a link of 8 Mbit/s take 17 s. An owner gives up much sooner, by its
learnt patience; this only ends what nobody waits for any more."""
WORD_DEADLINE_S = 2.0
"""A few hundred bytes, as for every call of the gossip."""
BUSY_TRIES = 5
"""A neighbour that is just finishing this owner's last step says busy for a moment."""
BUSY_PAUSE_S = 0.05

Topic = Literal["forward", "backward"]


class Sender:
    """Of one device."""

    def __init__(self, board: Switchboard, compute: Compute, group: asyncio.TaskGroup, codec: str) -> None:
        """`codec`: of activations and gradients, a name of `wire.tensors.CODECS`."""
        self._board, self._compute, self._group, self._codec = board, compute, group, codec
        self._feedback = Feedback()
        """Touched by the executor's one thread of the lane `gate` only."""

    def pass_on(self, take: Take, topic: Topic, address: str, passage: Passage, output: torch.Tensor) -> None:
        """Send what became of the passage to a neighbour; its owner is told if that fails."""
        values = output.detach().to(torch.float32).cpu().numpy()
        self.spawn(self._pass_on(take, topic, address, passage, values))

    def forget(self, owner: bytes) -> None:
        """It has left: nothing of its gradients is kept."""
        if self._codec == CODEC:
            self.spawn(self._compute.run(lambda: self._feedback.forget(owner), lane="gate"))

    def spawn(self, what: Coroutine[object, object, None]) -> None:
        """Do it beside everything else."""
        self._group.create_task(what)

    async def _pass_on(self, take: Take, topic: Topic, address: str, passage: Passage, values: tensors.Array) -> None:
        try:
            await self.send(topic, address, passage, values)
        except (RemoteError, ValueError):  # not taken; or what came out cannot be sent, being not finite, say
            await self._tell(take, passage, take.last if topic == "forward" else take.first)

    async def send(self, topic: Topic, address: str, like: Passage, values: tensors.Array) -> None:
        """One tensor under the head of `like`. Raises `RemoteError` when it was not taken, `ValueError` for values or a
        size that the codec cannot say.
        """
        body = await self._compute.run(lambda: self._body(topic, like, values), lane="gate")
        reply = await self._post(address, topic, body, HOP_DEADLINE_S)
        if reply.status != 202:
            raise RemoteError(f"{address} did not take a batch: {reply.status}")

    def tell_failed(self, take: Take, passage: Passage, place: int) -> None:
        """Tell the owner, soon, that its batch stopped at this shard."""
        self.spawn(self._tell(take, passage, place))

    async def _tell(self, take: Take, passage: Passage, place: int) -> None:
        word = Word(run=take.run, owner=take.owner, epoch=passage.epoch, round=passage.round, batch=passage.batch,
                    place=place)  # fmt: skip
        with suppress(RemoteError):
            await self.word(take.owner_address, "failed", word)

    async def word(self, address: str, topic: str, word: Word) -> Reply:
        """Say something short. Raises `RemoteError`."""
        return await self._post(address, topic, encode_word(word), WORD_DEADLINE_S)

    async def _post(self, address: str, topic: str, body: bytes, deadline_s: float) -> Reply:
        """The answer of a neighbour, who is asked again while it says that it is busy."""
        request = Request("POST", f"/v1/hops/{topic}", body)
        for _ in range(BUSY_TRIES - 1):
            reply = await self._board.call(address, request, deadline_s=deadline_s)
            if reply.status != 503:
                return reply
            await asyncio.sleep(BUSY_PAUSE_S)
        return await self._board.call(address, request, deadline_s=deadline_s)

    def _body(self, topic: Topic, like: Passage, values: tensors.Array) -> bytes:
        codec = self._codec
        if codec == CODEC and topic == "backward":
            payload = self._feedback.encode(like.owner, like.part, like.epoch, values)
        else:
            codec = "bf16" if codec == CODEC else codec
            payload = tensors.encode(codec, np.ascontiguousarray(values))
        return encode_passage(replace(like, codec=codec, shape=tuple(values.shape), payload=payload))


def opened(passage: Passage) -> torch.Tensor:
    """The tensor that it carries; for the executor, since it may have megabytes. Raises `WireError`."""
    return torch.from_numpy(tensors.decode(passage.codec, passage.payload, passage.shape))
