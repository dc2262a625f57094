"""What comes back to an owner: only its own, only once, and nothing odd that a relay sends ends its run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch

from p2pfusion.core.data import as_data
from p2pfusion.core.splitting import Ends
from p2pfusion.errors import RemoteError, TrainingError
from p2pfusion.hops import owning
from p2pfusion.hops.linking import HopLost, Linking
from p2pfusion.hops.owning import Owner
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire import tensors
from p2pfusion.wire.hops import Passage, Word, encode_passage, encode_word
from tests.hops.made import SPLIT, address, device, hop, settle, site, word
from tests.node.parts import until

ME = 50
CHAIN = (hop(1, 1, 1), hop(2, 2, SPLIT.shards.count - 1))
X, Y = torch.rand(4, 8), torch.tensor([0, 1, 2, 3])


class Way:
    """A sender that says what it was given; `error` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Passage, np.ndarray]] = []
        self.error: Exception | None = None

    async def send(self, topic: str, address: str, like: Passage, values: np.ndarray) -> None:
        self.sent.append((topic, address, like, values))
        if self.error is not None:
            raise self.error


class Home:
    """An owner whose chain is there; what comes out of it a test says."""

    def __init__(self) -> None:
        self.way = Way()
        made = site(me=ME, sender=self.way)
        linking = Linking(made)
        linking.chain, linking.epoch = CHAIN, 3
        self.owner = Owner(made, linking, iter([(X, Y)] * 9), 4)
        values = self.owner.genesis
        shards, recipe = SPLIT.shards, SPLIT.recipe(1)
        self.ends = Ends(SPLIT.blueprint, shards.first, shards.last, values, recipe)

    async def begin(self) -> asyncio.Task[float]:
        task = asyncio.get_running_loop().create_task(self.owner._batch(1, self.ends, X, Y))
        await settle()
        return task

    def come(self, topic: str, values: np.ndarray, **changes: Any) -> int:
        """Something comes back under the head of what was sent last; the status of the answer."""
        like = self.way.sent[-1][2]
        fields = {"run": like.run, "owner": like.owner, "epoch": like.epoch, "batch": like.batch, "part": like.part,
                  "parts": like.parts, **changes}  # fmt: skip
        passage = Passage(round=1, is_training=True, codec="fp32", shape=values.shape,
                          payload=tensors.encode("fp32", values), **fields)  # fmt: skip
        return _status(self.owner.answer(topic, Request("POST", f"/v1/hops/{topic}", encode_passage(passage))))

    def failed(self, what: Word) -> int:
        return _status(self.owner.answer("failed", Request("POST", "/v1/hops/failed", encode_word(what))))


def _status(reply: Reply | None) -> int:
    assert reply is not None
    return reply.status


ACTIVATION = np.ones((4, 16), np.float32)


def at_home(main: Callable[[Home], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main(Home())

    run(whole, until_s=1000.0)


def test_a_batch_goes_in_at_the_first_hop_and_its_gradient_at_the_last() -> None:
    async def main(home: Home) -> None:
        before = home.ends.values
        batch = await home.begin()
        assert home.come("forward", ACTIVATION) == 202
        await settle()
        assert home.come("backward", ACTIVATION) == 202
        assert await batch > 0
        ways = [(topic, to) for topic, to, _, _ in home.way.sent]
        assert ways == [("forward", address(1)), ("backward", address(2))]
        assert home.way.sent[1][3].shape == ACTIVATION.shape
        assert (home.ends.values != before).any()
        assert home.owner._waiting == {}

    at_home(main)


@pytest.mark.parametrize("change", [{"owner": device(7)}, {"run": bytes(16)}, {"epoch": 2}, {"batch": 99}])
def test_what_is_of_another_is_refused_and_mine_still_comes(change: dict[str, Any]) -> None:
    async def main(home: Home) -> None:
        batch = await home.begin()
        assert home.come("forward", 9 * ACTIVATION, **change) == 404
        assert home.come("backward", ACTIVATION) == 404  # not yet
        await settle()
        assert home.come("forward", ACTIVATION) == 202
        await settle()
        assert home.come("backward", ACTIVATION) == 202
        assert await batch > 0

    at_home(main)


def test_a_failure_that_is_told_ends_the_wait_at_once_and_one_of_anothers_batch_does_not() -> None:
    async def main(home: Home) -> None:
        batch = await home.begin()
        number = home.way.sent[-1][2].batch
        home.failed(word(7, epoch=3, batch=number, place=2))
        home.failed(word(ME, epoch=2, batch=number, place=2))
        home.failed(word(ME, epoch=3, batch=number + 1, place=2))
        await settle()
        assert not batch.done()
        home.failed(word(ME, epoch=3, batch=number, place=2))
        with pytest.raises(HopLost) as caught:
            await batch
        assert caught.value.place == 2
        assert home.owner._waiting == {}

    at_home(main)


def test_silence_is_a_lost_hop_after_the_patience_that_was_learnt() -> None:
    async def main(home: Home) -> None:
        loop = asyncio.get_running_loop()
        patience_s, began_s = home.owner.patience_s, loop.time()
        with pytest.raises(HopLost) as caught:
            await home.owner._batch(1, home.ends, X, Y)
        assert caught.value.place is None
        assert loop.time() - began_s == pytest.approx(patience_s)

    at_home(main)


def test_a_first_hop_that_takes_nothing_is_where_it_stopped_also_when_a_failure_was_told_before() -> None:
    async def main(home: Home) -> None:
        home.way.error = RemoteError("busy")
        with pytest.raises(HopLost) as caught:
            await home.owner._batch(1, home.ends, X, Y)
        assert caught.value.place == CHAIN[0].first
        home.ends.drop()

        async def told(topic: str, address: str, like: Passage, values: np.ndarray) -> None:
            home.failed(word(ME, epoch=3, batch=like.batch, place=2))
            raise RemoteError("refused")

        home.way.send = told  # type: ignore[method-assign]
        with pytest.raises(HopLost):
            await home.owner._batch(1, home.ends, X, Y)  # and the virtual loop sees no exception left alone

    at_home(main)


def test_a_gradient_of_a_wrong_shape_is_a_lost_batch_and_no_end_of_the_run() -> None:
    async def main(home: Home) -> None:
        batch = await home.begin()
        home.come("forward", ACTIVATION)
        await settle()
        home.come("backward", ACTIVATION[:, :3])
        with pytest.raises(HopLost) as caught:
            await batch
        assert caught.value.place == CHAIN[0].first

    at_home(main)


def test_an_activation_that_cannot_be_sent_ends_the_run_with_the_reason() -> None:
    async def main(home: Home) -> None:
        home.way.error = ValueError("use smaller batches")
        with pytest.raises(TrainingError, match="use smaller batches"):
            await home.owner._batch(1, home.ends, X, Y)

    at_home(main)


# -- micro-batches ----------------------------------------------------------------------------------------------------


def test_of_a_batch_in_pieces_one_lost_piece_ends_all_and_the_next_batch_learns() -> None:
    async def main(home: Home) -> None:
        home.owner._micro_batches = 2
        before = home.ends.values
        batch = await home.begin()
        assert [one.part for _, _, one, _ in home.way.sent] == [0, 1]
        home.failed(word(ME, epoch=3, batch=home.way.sent[-1][2].batch, place=2))
        with pytest.raises(HopLost):
            await batch
        assert home.owner._waiting == {}
        home.ends.drop()
        assert (home.ends.values == before).all()
        batch = await home.begin()
        for topic in ("forward", "backward"):
            for part in (1, 0):
                assert home.come(topic, ACTIVATION[:2], part=part, parts=2) == 202
            await settle()
        assert await batch > 0
        assert (home.ends.values != before).any()

    at_home(main)


def test_nothing_more_is_sent_of_a_batch_that_was_given_up() -> None:
    async def main(home: Home) -> None:
        home.owner._micro_batches = 4
        home.way.error = RemoteError("nobody")
        batch = await home.begin()
        with pytest.raises(HopLost):
            await batch
        assert len(home.way.sent) == 1

    at_home(main)


def test_a_round_that_is_begun_again_and_again_ends_the_run_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owning, "BEGUN_AGAIN_MAX", 3)

    async def main(home: Home) -> None:
        home.way.error = RemoteError("nobody")
        home.owner.linking.seat = home.owner.linking.mend = nothing  # type: ignore[method-assign,assignment]

        class Context:
            round = 7

            async def extract(self, sub_model: object) -> np.ndarray:
                return home.owner.genesis

            async def compute(self, work: Callable[[], Any], cost_s: float) -> Any:
                return work()

            def steps(self, most: int) -> int:
                return most

            def should_stop(self) -> bool:
                return False

        async def round_() -> None:
            await home.owner.round(Context())  # type: ignore[arg-type]

        with pytest.raises(TrainingError, match="round 7 was begun 4 times: relays come and go"):
            await round_()
        assert home.owner.figures.begun_again == 3

    async def nothing(*arguments: object, **options: object) -> bool:
        return True

    at_home(main)


async def seat(round_: int) -> None: ...


async def mend(place: int | None, round_: int) -> bool:
    return False


def test_the_model_is_measured_at_the_end_though_batches_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no later round that would measure it. Whoever is only slow is waited for longer each time."""

    async def main(home: Home) -> None:
        owner = home.owner
        monkeypatch.setattr(owner, "_validation", as_data((X, Y), 4, "validation"))
        monkeypatch.setattr(owner.linking, "seat", seat)
        monkeypatch.setattr(owner.linking, "mend", mend)
        measured = asyncio.get_running_loop().create_task(owner.measure(2, owner.genesis))
        await settle()
        home.failed(word(ME, epoch=3, batch=home.way.sent[-1][2].batch, place=2))
        await settle()
        assert len(home.way.sent) == 2
        patience_s, sent = owner.patience_s, len(home.way.sent)
        while len(home.way.sent) == sent:  # nothing comes in time
            await until(asyncio.get_running_loop().time() + 0.1)
        assert owner.patience_s > patience_s
        assert owner.score_before(2) is None
        assert home.come("forward", ACTIVATION) == 202
        await measured
        assert owner.score_before(2) is not None

    at_home(main)


def test_a_chain_that_never_answers_is_given_up_and_there_is_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(home: Home) -> None:
        owner, home.way.error = home.owner, RemoteError("gone")
        monkeypatch.setattr(owner, "_validation", as_data((X, Y), 4, "validation"))
        monkeypatch.setattr(owner.linking, "seat", seat)
        monkeypatch.setattr(owner.linking, "mend", mend)
        await owner.measure(2, owner.genesis)
        assert len(home.way.sent) == owning.LOST_MAX
        assert owner.score_before(2) is None

    at_home(main)
