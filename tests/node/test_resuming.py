"""What a checkpoint holds comes back bit for bit, or not at all; and what is in doubt after a restart counts once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import NodeConfig, RunConfig
from p2pfusion.node import resuming
from p2pfusion.node.authoring import Mine
from p2pfusion.node.contents import PART, Listed, unpack
from p2pfusion.node.decoding import values_of
from p2pfusion.node.resuming import Examined, Unfit, capture, examined, resume
from p2pfusion.seams import Checkpoint
from p2pfusion.sim.light import light_blueprint
from p2pfusion.sim.loop import run
from p2pfusion.swarm.grafts import Grafted, Loss
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.messages import Link
from tests.node.parts import BLUEPRINT, SLICES, WHOLE, Parts, changed, copied, grown, ones, parts, sealed
from tests.swarm.made import link_after, peer

CONFIG = NodeConfig(run=RunConfig(snapshot_every_rounds=4))


def saved(one: Parts) -> Checkpoint:
    return capture(one.state, one.authoring, one.chain._grafting, one.kept).checkpoint()


def whole_residual(one: Parts) -> Vector:
    """What a checkpoint would hold of it now."""
    found = one.authoring.residual()()
    return np.zeros(BLUEPRINT.size, np.float32) if found is None else found


def found_in(checkpoint: Checkpoint) -> Examined:
    return examined(checkpoint, BLUEPRINT, CONFIG.run)


def returned(checkpoint: Checkpoint, index: int = 1, *, last: int = 0) -> Parts:
    """The node after a restart; `last` as its identity knows it."""
    one = parts(index=index, config=CONFIG)
    resume(found_in(checkpoint), one.state, one.kept, one.authoring, one.chain._grafting, last)
    return one


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert replace(one, model={}, parts={}) == replace(other, model={}, parts={})
    for mine, theirs in ((one.model, other.model), (one.parts, other.parts)):
        assert {name: array.tobytes() for name, array in mine.items()} == {
            name: array.tobytes() for name, array in theirs.items()
        }


class Story:
    """A node's life at random: own and others' work, rounds sealed with and without it."""

    def __init__(self, seed: int, codec: str) -> None:
        self.rng = random.Random(seed)
        self.one = parts(config=replace(CONFIG, codec=codec))
        self.other = parts(index=2, config=replace(CONFIG, codec=codec))

    def delta(self, size: int) -> Vector:
        return np.random.default_rng(self.rng.getrandbits(32)).standard_normal(size).astype(np.float32)

    async def publish(self, author: Parts) -> Entry | None:
        sub_model = self.rng.choice(SLICES)
        return await author.publish(self.delta(sub_model.size(BLUEPRINT)), sub_model)

    async def step(self) -> None:
        one, what = self.one, self.rng.randrange(5)
        if what < 2:
            await self.publish(one)
        elif what == 2:
            self.other.state.ledger.saw_round(one.state.ledger.floor)
            entry = await self.publish(self.other)
            if entry is not None:
                copied(entry, one)
        elif one.state.ledger.open_rounds():
            entries = one.state.ledger.counted(one.state.ledger.tip.round + 1)
            await sealed(one, *(entry for entry in entries if self.rng.random() < 0.7))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.sampled_from(["fp32", "bf16"]))
def test_what_is_saved_comes_back_bit_for_bit(seed, steps, codec):
    async def main() -> None:
        story = Story(seed, codec)
        for _ in range(steps):
            await story.step()
        one, checkpoint = story.one, saved(story.one)
        two = returned(checkpoint)
        mine, back = one.state.ledger, two.state.ledger
        assert back.links == mine.links
        assert back.digests() == mine.digests()
        assert (back.last, back.floor) == (mine.last, mine.floor)
        assert (back.grafts.total, back.newest) == (mine.grafts.total, mine.newest)
        assert two.state.replica.sealed.tobytes() == one.state.replica.sealed.tobytes()
        assert two.state.model_hash == one.state.model_hash
        assert whole_residual(two).tobytes() == whole_residual(one).tobytes()
        assert_equal(saved(two), checkpoint)

    run(main)


def test_a_head_after_a_restart_is_the_head_before():
    async def main() -> None:
        one, other = parts(config=CONFIG), parts(index=2, config=CONFIG)
        await grown(one, 3)
        other.state.ledger.saw_round(4)
        entry = await other.publish(ones(SLICES[1], 5.0), SLICES[1])
        assert entry is not None
        copied(entry, one)
        await one.publish(ones(SLICES[2], 7.0), SLICES[2])
        before, _ = await one.authoring.head(WHOLE)
        after, base = await returned(saved(one)).authoring.head(WHOLE)
        assert before.tobytes() == after.tobytes()
        assert base.round == 4

    run(main)


def test_grafts_counted_and_owed_come_back():
    async def main() -> None:
        one = parts(config=CONFIG)
        await grown(one, 5)
        ledger = one.state.ledger
        ids = frozenset({b"i" * 32, b"j" * 32})
        ledger.grafts.append(Grafted(round=4, key=(b"f" * 32, b"l" * 32), ids=ids))
        loss = Loss(key=(b"a" * 32, b"b" * 32), length=9, weight=3, fork_weight=2, covers=frozenset({b"c" * 32}))
        ledger.losses.add(loss)
        one.chain._grafting.remember(loss, ones(value=3.0))
        two = returned(saved(one))
        assert two.state.ledger.grafts.counted == ledger.grafts.counted
        assert two.state.ledger.counts(b"i" * 32, 1)
        assert list(two.state.ledger.losses) == [loss]
        assert two.state.ledger.counts(b"c" * 32, 1)
        assert two.chain._grafting.left[loss.key].tolist() == ones(value=3.0).tolist()
        assert two.state.report().owes_graft

    run(main)


def test_who_is_another_peer_takes_the_model_and_nothing_of_the_old_ones_own():
    async def main() -> None:
        one = parts(config=CONFIG)
        await grown(one, 2)
        await one.publish(ones())
        one.state.ledger.seal(link_after(one.state.ledger.tip))
        one.authoring.balance()
        assert whole_residual(one).any()
        two = returned(saved(one), index=2)
        assert two.state.ledger.tip == one.state.ledger.tip
        assert not whole_residual(two).any()
        assert two.authoring.mine() == {}
        assert two.state.ledger.last == 0

    run(main)


def test_residual_that_is_on_its_way_out_is_saved_too():
    async def main() -> None:
        one = parts(config=CONFIG)
        one.state.replica.add_residual(WHOLE, ones(value=2.0))
        captured = []

        class Watching(type(one.state.doors.store)):  # type: ignore[misc]
            def save_identity(self, identity):
                captured.append(whole_residual(one))
                super().save_identity(identity)

        one.state.disk._store = Watching()
        await one.publish(ones(SLICES[1]), SLICES[1])
        assert captured[0].tolist() == ones(value=2.0).tolist()
        assert whole_residual(one).sum() == 2.0 * (WHOLE.size(BLUEPRINT) - SLICES[1].size(BLUEPRINT))

    run(main)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_others_open_work_is_saved_while_there_is_room_and_mine_always(monkeypatch):
    async def main() -> None:
        one, others = parts(config=CONFIG), [parts(index=index, config=CONFIG) for index in (2, 3)]
        for author in (*others, one):
            entry = await author.publish(ones())
            assert entry is not None
            if author is not one:
                copied(entry, one)
        size = WHOLE.size(BLUEPRINT) * 4
        for room, expected in ((2 * size, 3), (2 * size - 1, 2), (0, 1)):
            monkeypatch.setattr(resuming, "OPEN_SAVED_BYTES_MAX", room)
            kept = found_in(saved(one)).record.open
            assert len(kept) == expected
            assert kept[0][0].peer == one.me

    run(main)


def test_own_work_that_is_sealed_is_saved_while_there_is_room(monkeypatch):
    async def main() -> None:
        one = parts(config=CONFIG)
        await grown(one, 4)
        await one.publish(ones())
        size = WHOLE.size(BLUEPRINT) * 4
        for room, expected in ((4 * size, [1, 2, 3, 4, 5]), (2 * size, [3, 4, 5]), (2 * size - 1, [4, 5]), (0, [5])):
            monkeypatch.setattr(resuming, "MINE_SAVED_BYTES_MAX", room)
            assert sorted(found_in(saved(one)).mine) == expected

    run(main)


def test_addresses_are_few(monkeypatch):
    async def main() -> None:
        one = parts(config=CONFIG)
        one.meet(*(parts(index=index, config=CONFIG) for index in (2, 3, 4)))
        assert found_in(saved(one)).record.addresses == ("10.0.0.2:7000", "10.0.0.3:7000", "10.0.0.4:7000")
        monkeypatch.setattr(resuming, "ADDRESSES_SAVED_MAX", 2)
        assert found_in(saved(one)).record.addresses == ("10.0.0.2:7000", "10.0.0.3:7000")

    run(main)


def test_own_work_in_the_form_of_version_0_1_is_read_without_its_contents():
    """It kept decoded values; without them a change of mind is told as too late, and nothing else is missing."""

    async def main() -> None:
        one = parts(config=CONFIG)
        await grown(one, 3)
        good = saved(one)
        kept = {name: part for name, part in good.parts.items() if not name.startswith("mine.2")}
        two = returned(replace(good, parts={**kept, "mine.2": ones()}))
        assert sorted(two.authoring.mine()) == [1, 2, 3]
        assert [entry.manifest.round for entry in two.state.ledger.pinned.values()] == [3, 1]
        assert two.state.ledger.held_bytes == 2 * WHOLE.size(BLUEPRINT) * 4

    run(main)


def test_own_work_that_is_not_what_it_says_is_not_taken():
    async def main() -> None:
        one = parts(config=CONFIG)
        await grown(one, 2)
        good = saved(one)
        two = returned(spoilt(good, "mine.2.0", lambda data: data.__setitem__(0, data[0] ^ 1)))
        assert [entry.manifest.round for entry in two.state.ledger.pinned.values()] == [1]
        with pytest.raises(Unfit, match="another"):
            found_in(replace(good, parts={**good.parts, "mine.2": good.parts["mine.1"]}))

    run(main)


# -- nothing is believed ----------------------------------------------------------------------------------------------


async def some_checkpoint() -> Checkpoint:
    one = parts(config=CONFIG)
    await grown(one, 5)
    one.state.replica.add_residual(WHOLE, ones(value=2.0))
    await one.publish(ones(SLICES[1]), SLICES[1])
    return saved(one)


def spoilt(checkpoint: Checkpoint, name: str, change: Callable[[bytearray], object]) -> Checkpoint:
    data = bytearray(checkpoint.parts[name].tobytes())
    change(data)
    return replace(checkpoint, parts={**checkpoint.parts, name: np.frombuffer(bytes(data), np.uint8)})


def test_a_checkpoint_says_what_the_model_holds_and_one_that_does_not_is_as_good():
    async def main() -> None:
        good = await some_checkpoint()
        assert unpack(good.parts[PART]) == Listed()
        found_in(replace(good, parts={name: part for name, part in good.parts.items() if name != PART}))

    run(main)


def test_a_checkpoint_that_is_not_what_it_says_is_unfit():
    async def main() -> None:
        good = await some_checkpoint()
        found_in(good)
        first = next(iter(good.model))
        needed = [name for name in good.parts if name not in ("residual", PART) and not name.startswith("mine.")]
        bad = [
            replace(good, round=4),
            replace(good, weight=good.weight + 1),
            replace(good, chain=bytes(32)),
            replace(good, run_id=bytes(32)),
            replace(good, model={**good.model, first: good.model[first] + np.float32(1)}),
            replace(good, model={**good.model, first: good.model[first].reshape(-1)}),
            replace(good, model={**good.model, "more": np.zeros(1, np.float32)}),
            replace(good, parts={**good.parts, "residual": np.zeros((2, 2), np.float32)}),
            replace(good, parts={**good.parts, "residual": np.zeros(BLUEPRINT.size + 1, np.float32)}),
            replace(good, parts={**good.parts, "residual": np.full(BLUEPRINT.size, np.nan, np.float32)}),
            replace(good, parts={**good.parts, "links": np.zeros(4, np.float32)}),
            spoilt(good, "links", lambda data: data.extend(b"more")),
            spoilt(good, "links", lambda data: data.pop()),
            spoilt(good, "links", lambda data: data.__setitem__(-1, data[-1] ^ 1)),
            spoilt(good, "record", lambda data: data.pop()),
            spoilt(good, "record", lambda data: data.__setitem__(slice(None), b"[]")),
            spoilt(good, "snapshot", lambda data: data.__setitem__(9, data[9] ^ 1)),
            *(replace(good, parts={k: v for k, v in good.parts.items() if k != name}) for name in needed),
        ]
        for checkpoint in bad:
            with pytest.raises(Unfit):
                found_in(checkpoint)

    run(main)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 2**30), st.integers(0, 255))
def test_any_changed_byte_is_found_or_harms_nobody(which, where, value):
    """The store's hash finds them all; what gets past it may be wrong, but never a crash."""

    async def main() -> None:
        good = await some_checkpoint()
        name = sorted(good.parts)[which % len(good.parts)]
        data = bytearray(good.parts[name].tobytes())
        if not data:
            return
        data[where % len(data)] = value
        bad = replace(good, parts={**good.parts, name: np.frombuffer(bytes(data), good.parts[name].dtype)})
        try:
            two = returned(bad)
        except Unfit:
            return
        two.authoring.balance()
        assert two.state.ledger.tip.chain == good.chain

    run(main)


def test_work_that_others_would_refuse_is_not_taken_from_the_disk_either():
    async def main() -> None:
        one = parts(config=CONFIG)
        entry = await one.publish(ones())
        assert entry is not None
        checkpoint = saved(one)
        wild = np.frombuffer(checkpoint.parts["open.0.0"].tobytes(), np.float32).copy()
        wild[0] = np.inf
        parts_ = {**checkpoint.parts, "open.0.0": wild.view(np.uint8)}
        two = returned(replace(checkpoint, parts=parts_))
        assert two.state.ledger.open_rounds() == []
        assert two.authoring.mine()[1].id not in two.state.ledger.pinned

    run(main)


# -- in doubt ---------------------------------------------------------------------------------------------------------


def residual(one: Parts) -> Vector:
    return one.state.replica.residual


async def left_with_residual() -> tuple[Checkpoint, Entry]:
    """A node saves 2.0 everywhere as residual, publishes a slice that carries it, and is gone."""
    one = parts(config=CONFIG)
    await grown(one, 2)
    one.state.replica.add_residual(WHOLE, ones(value=2.0))
    checkpoint = saved(one)
    entry = await one.publish(ones(SLICES[1]), SLICES[1])
    assert entry is not None
    return checkpoint, entry


def test_without_doubt_the_residual_is_free_at_once():
    async def main() -> None:
        checkpoint, _ = await left_with_residual()
        one = returned(checkpoint, last=2)
        assert residual(one).tolist() == ones(value=2.0).tolist()

    run(main)


def test_what_came_back_from_others_took_its_residual_with_it_once():
    async def main() -> None:
        checkpoint, entry = await left_with_residual()
        one = returned(checkpoint, last=3)
        assert not residual(one).any(), "held back while it is in doubt"
        assert whole_residual(one).tolist() == ones(value=2.0).tolist(), "and not forgotten by a checkpoint"
        assert (one.authoring.doubtful, one.state.ledger.floor) == ((3,), 4)
        copied(entry, one)
        one.authoring.balance()
        one.authoring.balance()
        rest = 2.0 * (WHOLE.size(BLUEPRINT) - SLICES[1].size(BLUEPRINT))
        assert whole_residual(one).sum() == rest
        assert one.authoring.mine()[3].is_counted
        await sealed(one, entry)
        assert residual(one).sum() == rest, "nothing is in doubt any more"
        assert one.authoring.doubtful == ()

    run(main)


def test_what_a_sparse_contribution_left_out_is_still_owed_when_it_came_back():
    async def main() -> None:
        sparse = replace(CONFIG, codec="topk", codec_density=0.1)
        one = parts(config=sparse, blueprint=light_blueprint(100))
        values = np.arange(one.state.blueprint.size, dtype=np.float32)
        one.state.replica.add_residual(one.state.blueprint.whole(), values)
        one.authoring.resume({}, values, (1,))
        entry = await one.publish(np.zeros_like(values), one.state.blueprint.whole())
        assert entry is not None
        one.authoring._mine.clear()
        one.authoring.adopt(entry)
        sent = values_of(one.state.blueprint, entry)
        assert 0 < np.count_nonzero(sent) < values.size / 2
        left = one.authoring._doubts
        assert left is not None
        assert left.residual.tolist() == np.where(sent == 0, values, 0).tolist()

    run(main)


def test_what_never_reached_anybody_keeps_its_residual():
    async def main() -> None:
        checkpoint, _ = await left_with_residual()
        one = returned(checkpoint, last=3)
        await sealed(one)
        assert residual(one).tolist() == ones(value=2.0).tolist()

    run(main)


def test_what_came_back_and_is_lost_to_a_switch_returns_whole():
    async def main() -> None:
        checkpoint, entry = await left_with_residual()
        one = returned(checkpoint, last=3)
        copied(entry, one)
        before = one.state.ledger.tip
        await sealed(one, entry)
        one.state.ledger.losses.add = lambda loss: None  # type: ignore[method-assign,assignment]
        one.state.ledger.switch(2, [link_after(before), *_more(link_after(before))])
        one.authoring.balance()
        assert residual(one).sum() == 2.0 * WHOLE.size(BLUEPRINT) + SLICES[1].size(BLUEPRINT)

    run(main)


def _more(link: Link) -> list[Link]:
    return [link_after(link)]


def test_when_nobody_can_tell_the_residual_is_dropped_and_that_is_said():
    async def main() -> None:
        checkpoint, _ = await left_with_residual()
        one = returned(checkpoint, last=3)
        far = parts(index=2, config=CONFIG)
        await grown(far, 9)
        one.state.ledger.install(far.state.ledger.links[8:], far.state.ledger.grafts)
        one.authoring.balance()
        assert not whole_residual(one).any()
        assert [warning.code for warning in one.warnings()] == ["residual-dropped"]

    run(main)


def test_doubts_outlive_a_second_crash():
    async def main() -> None:
        checkpoint, entry = await left_with_residual()
        one = returned(checkpoint, last=3)
        two = returned(saved(one), last=5)
        assert two.authoring.doubtful == (3, 4, 5)
        copied(entry, two)
        two.authoring.balance()
        assert two.authoring.mine()[3] == Mine(entry.id, entry.manifest.sub_model)
        rest = 2.0 * (WHOLE.size(BLUEPRINT) - SLICES[1].size(BLUEPRINT))
        assert whole_residual(two).sum() == rest

    run(main)


def test_anothers_work_in_a_doubtful_round_is_not_mine():
    async def main() -> None:
        checkpoint, entry = await left_with_residual()
        one = returned(checkpoint, last=3)
        id_, manifest = changed(entry.manifest, peer=peer(7))
        theirs = Entry(id_, manifest)
        theirs.segments, theirs.missing = list(entry.segments), 0
        copied(theirs, one)
        await sealed(one, *one.state.ledger.counted(3))
        assert residual(one).tolist() == ones(value=2.0).tolist()
        assert 3 not in one.authoring.mine()

    run(main)


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_work_after_the_checkpoint_is_mine_again_whether_there_was_a_residual_or_not(residual):
    """Found by a critic: without a residual it was neither in the chain nor in the residual."""

    async def main() -> None:
        one = parts()
        await grown(one, 2)
        if residual:
            one.state.replica.add_residual(WHOLE, ones(value=residual))
        saved = capture(one.state, one.authoring, one.chain._grafting, one.kept).checkpoint()
        late = await one.publish(ones(value=7.0))
        assert late is not None
        again = parts()
        found = examined(saved, BLUEPRINT, again.state.config.run)
        again.state.ledger.published(one.state.ledger.last)
        resume(found, again.state, again.kept, again.authoring, again.chain._grafting, one.state.ledger.last)
        copied(late, again)
        again.authoring.balance()
        again.state.ledger.seal(again.state.ledger.next_link([]))
        again.authoring.balance()
        assert again.state.replica.residual.max() == 7.0 + residual

    run(main)
