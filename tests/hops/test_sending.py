"""Sending on: busy neighbours are asked again for a moment, and who owns a batch hears where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from p2pfusion.errors import RemoteError, Unreachable
from p2pfusion.hops import feedback
from p2pfusion.hops.sending import BUSY_PAUSE_S, BUSY_TRIES, Sender
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire import tensors
from p2pfusion.wire.hops import Passage, decode_passage, decode_word
from tests.hops.made import SPLIT, Board, Gated, address, device, take
from tests.node.parts import until

OWNER, NEXT = address(7), address(101)
LIKE = Passage(run=SPLIT.tag, owner=device(7), epoch=3, round=4, batch=5, part=0, parts=1, is_training=True,
               codec="fp32", shape=(1,), payload=bytes(4))  # fmt: skip
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def looked_at(main: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.TaskGroup() as group:
            await main(group)

    run(whole, until_s=100.0)


def statuses(*given: int | Exception) -> Callable[[str, Request], Reply | Exception]:
    """The neighbour's answers in turn; the owner takes every word."""
    left: Iterator[int | Exception] = iter(given)

    def answer(to: str, request: Request) -> Reply | Exception:
        if to == OWNER:
            return Reply(202)
        found = next(left)
        return found if isinstance(found, Exception) else Reply(found)

    return answer


def test_a_tensor_goes_out_under_its_batchs_head() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board = Board(statuses(202))
        await Sender(board, Gated(), group, "fp32").send("forward", NEXT, LIKE, VALUES)  # type: ignore[arg-type]
        ((to, request),) = board.calls
        passage = decode_passage(request.body)
        assert (to, request.path) == (NEXT, "/v1/hops/forward")
        assert (passage.owner, passage.epoch, passage.round, passage.batch) == (device(7), 3, 4, 5)
        assert (tensors.decode(passage.codec, passage.payload, passage.shape) == VALUES).all()

    looked_at(main)


def test_a_busy_neighbour_is_asked_again_after_a_moment() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        loop, board = asyncio.get_running_loop(), Board(statuses(503, 503, 202))
        began_s = loop.time()
        await Sender(board, Gated(), group, "fp32").send("backward", NEXT, LIKE, VALUES)  # type: ignore[arg-type]
        assert loop.time() - began_s == pytest.approx(2 * BUSY_PAUSE_S)
        assert len({request.body for _, request in board.calls}) == 1

    looked_at(main)


@pytest.mark.parametrize(("answers", "calls"), [((503,) * 9, BUSY_TRIES), ((404, 202), 1), ((503, 409, 202), 2)])
def test_who_stays_busy_or_refuses_did_not_take_it(answers: tuple[int, ...], calls: int) -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board = Board(statuses(*answers))
        with pytest.raises(RemoteError, match="did not take"):
            await Sender(board, Gated(), group, "fp32").send("forward", NEXT, LIKE, VALUES)  # type: ignore[arg-type]
        assert len(board.calls) == calls

    looked_at(main)


@pytest.mark.parametrize("answer", [404, Unreachable("nobody")])
@pytest.mark.parametrize(("topic", "place"), [("forward", 3), ("backward", 2)])
def test_the_owner_is_told_where_its_batch_stopped(topic: str, place: int, answer: int | Exception) -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board = Board(statuses(answer))
        sender = Sender(board, Gated(), group, "fp32")  # type: ignore[arg-type]
        sender.pass_on(take(7, 2, 3, epoch=3), topic, NEXT, LIKE, torch.zeros(2))  # type: ignore[arg-type]
        await until(1.0)
        assert board.topics(OWNER) == ["failed"]
        word = decode_word(board.calls[-1][1].body)
        assert (word.owner, word.epoch, word.round, word.batch, word.place) == (device(7), 3, 4, 5, place)

    looked_at(main)


def test_what_no_codec_can_say_is_told_to_the_owner_and_ends_nothing() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board = Board(statuses(202))
        sender = Sender(board, Gated(), group, "int8")  # type: ignore[arg-type]
        sender.pass_on(take(7, 2, 3, epoch=3), "forward", NEXT, LIKE, torch.full((4,), torch.nan))
        await until(1.0)
        assert board.topics(NEXT) == []
        assert board.topics(OWNER) == ["failed"]

    looked_at(main)


def test_an_owner_that_does_not_hear_is_left_alone() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board = Board(lambda to, request: Unreachable(to))
        sender = Sender(board, Gated(), group, "fp32")  # type: ignore[arg-type]
        sender.tell_failed(take(7, 2, 3), LIKE, 2)
        await until(1.0)
        assert board.topics(OWNER) == ["failed"]

    looked_at(main)


# -- a tenth of the gradients -----------------------------------------------------------------------------------------


def sparse(group: asyncio.TaskGroup) -> tuple[Board, Sender]:
    board = Board(lambda to, request: Reply(202))
    return board, Sender(board, Gated(), group, "topk")  # type: ignore[arg-type]


async def decoded(
    sender: Sender, board: Board, topic: str, like: Passage, values: np.ndarray
) -> tuple[str, np.ndarray]:
    await sender.send(topic, NEXT, like, values)  # type: ignore[arg-type]
    passage = decode_passage(board.calls[-1][1].body)
    return passage.codec, tensors.decode(passage.codec, passage.payload, passage.shape)


def test_what_topk_left_out_of_a_gradient_comes_with_the_next_ones() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        (board, sender), rng = sparse(group), np.random.default_rng(0)
        given = [rng.standard_normal((8, 64)).astype(np.float32) for _ in range(40)]
        came = [await decoded(sender, board, "backward", LIKE, one) for one in given]
        assert {codec for codec, _ in came} == {"topk"}
        assert all(np.count_nonzero(values) <= 52 for _, values in came)
        missing = sum(given) - sum(values for _, values in came)
        left_out = [one - values for one, (_, values) in zip(given, came, strict=True)]
        assert np.linalg.norm(missing) < 0.4 * np.linalg.norm(np.sum(np.abs(left_out), axis=0))
        ((_, kept),) = sender._feedback._rests.values()
        assert np.allclose(missing, kept, atol=1e-3)

    looked_at(main)


def test_activations_are_sent_whole_beside_sparse_gradients_and_a_batch_of_another_size_begins_anew() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board, sender = sparse(group)
        values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
        codec, came = await decoded(sender, board, "forward", LIKE, values)
        assert codec == "bf16"
        assert np.allclose(came, values, rtol=2**-7)
        _, first = await decoded(sender, board, "backward", LIKE, values)
        await decoded(sender, board, "backward", LIKE, values[:5])
        _, again = await decoded(sender, board, "backward", LIKE, values)
        assert (first == again).all()

    looked_at(main)


def test_so_many_remainders_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "RESIDUALS_MAX", 5)

    async def main(group: asyncio.TaskGroup) -> None:
        _, sender = sparse(group)
        for number in range(8):
            await sender.send("backward", NEXT, replace(LIKE, owner=device(number)), VALUES)
        assert list(sender._feedback._rests) == [(device(number), 0) for number in range(3, 8)]

    looked_at(main)


def test_what_was_left_out_in_another_epoch_or_of_who_has_left_is_nobodys() -> None:
    async def main(group: asyncio.TaskGroup) -> None:
        board, sender = sparse(group)
        values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
        _, first = await decoded(sender, board, "backward", LIKE, values)
        _, second = await decoded(sender, board, "backward", LIKE, values)
        _, anew = await decoded(sender, board, "backward", replace(LIKE, epoch=9), values)
        assert (first == anew).all()
        assert (first != second).any()
        await decoded(sender, board, "backward", replace(LIKE, owner=device(8)), values)
        sender.forget(LIKE.owner)
        await until(1.0)
        assert list(sender._feedback._rests) == [(device(8), 0)]

    looked_at(main)
