"""My own contributions: the head they start from, their promise, and that nothing is lost or counted twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import CadenceConfig, NodeConfig, RunConfig
from p2pfusion.core.fold import fold
from p2pfusion.core.submodel import SubModel, extract, scatter_add
from p2pfusion.errors import StoreError, TrainingError, WireError
from p2pfusion.node import authoring
from p2pfusion.node.authoring import Authoring, Base
from p2pfusion.node.decoding import Encoded, values_of, weighted
from p2pfusion.seams import Identity
from p2pfusion.sim.loop import run
from p2pfusion.store.memory import MemoryStore
from p2pfusion.swarm.gate import judge, judge_segment
from p2pfusion.swarm.grafts import Grafts
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.compression import elements_per_segment, encode
from p2pfusion.wire.messages import FLOOR_NEVER, Link
from tests.node.parts import BLUEPRINT, SLICES, WHOLE, Parts, copied, ones, parts
from tests.sim.learners import light_blueprint
from tests.swarm.made import link_after, peer, piece, seal


def decoded(entry: Entry) -> Vector:
    return values_of(BLUEPRINT, entry)


# -- publishing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("sub_model", SLICES)
def test_what_is_published_passes_everybodys_gate(codec, sub_model):
    async def main() -> None:
        one = parts(config=NodeConfig(codec=codec))
        delta = np.random.default_rng(1).standard_normal(sub_model.size(BLUEPRINT)).astype(np.float32)
        entry = await one.publish(delta, sub_model)
        assert entry is not None
        manifest, ledger = entry.manifest, one.state.ledger
        assert judge(manifest, BLUEPRINT, one.state.config.run) is None
        assert [judge_segment(manifest, i, s or b"", BLUEPRINT) for i, s in enumerate(entry.segments)] == [None]
        assert (manifest.round, manifest.base_round, manifest.base_chain) == (1, 0, ledger.tip.chain)
        assert (manifest.peer, manifest.samples, manifest.weight, manifest.codec) == (one.me, 10, 65536, codec)
        assert ledger.counted(1) == (entry,)
        assert (ledger.last, ledger.floor) == (1, 2)
        np.testing.assert_allclose(decoded(entry), delta, rtol=2**-8)
        if codec == "fp32":
            assert decoded(entry).tobytes() == delta.tobytes()

    run(main)


def test_the_head_is_the_sealed_model_and_all_open_rounds():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        for value in (1.0, 2.0):
            entry = await other.publish(ones(value=value))
            assert entry is not None
            copied(entry, one)
        mine = await one.publish(ones(SLICES[1], 5.0), SLICES[1])
        assert mine is not None
        assert (mine.manifest.round, mine.manifest.base_round) == (2, 2)
        whole = one.state.replica.sealed
        for counting in one.state.ledger.open_rounds():
            whole = fold(BLUEPRINT, WHOLE, whole, [weighted(BLUEPRINT, e) for e in counting.work])
        for sub_model in SLICES:
            head, base = await one.authoring.head(sub_model)
            assert head.tobytes() == extract(BLUEPRINT, whole, sub_model).tobytes()
            assert base == Base(2, one.state.ledger.tip.chain)

    run(main)


def test_what_a_contribution_weighs():
    async def main() -> None:
        one = parts(config=NodeConfig(cadence=CadenceConfig(weight_power=1.0, decay=0.5)))
        _, base = await one.authoring.head(WHOLE)
        one.state.ledger.saw_round(4)
        entry = await one.authoring.publish(WHOLE, ones(), 8, base)
        assert entry is not None
        assert (entry.manifest.round, entry.manifest.base_round) == (4, 0)
        assert entry.manifest.weight == 65536 * 8 // 2**3

    run(main)


def test_a_contribution_of_many_segments():
    blueprint = light_blueprint(1024)
    values = np.random.default_rng(0).standard_normal(blueprint.size).astype(np.float32)
    for codec in ("fp32", "bf16"):
        segments = encode(codec, values)
        assert len(segments) == -(-values.size // elements_per_segment(codec)) > 1
        manifest = replace(piece(1, 1, segments=len(segments)).manifest, sub_model=blueprint.whole(), codec=codec)
        entry = Entry(b"", manifest)
        for index, segment in enumerate(segments[:-1]):
            entry.put(index, segment)
        with pytest.raises(ValueError, match="incomplete"):
            weighted(blueprint, entry)
        entry.put(len(segments) - 1, segments[-1])
        found = weighted(blueprint, entry)
        np.testing.assert_allclose(found.values.span(0, values.size), values, rtol=2**-8)
        assert (found.peer, found.weight) == (peer(1), 65536)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_numbers_that_are_not_finite_are_never_published(bad, codec):
    async def main() -> None:
        one = parts(config=NodeConfig(codec=codec))
        delta = ones()
        delta[3] = bad
        with pytest.raises(TrainingError, match="learning rate"):
            await one.publish(delta)
        assert one.state.ledger.entries == {}

    run(main)


def test_values_are_decoded_where_they_are_read_and_one_segment_at_a_time():
    values = np.random.default_rng(0).standard_normal(3 * elements_per_segment("bf16") + 7).astype(np.float32)
    for codec in ("fp32", "bf16", "int8", "int4", "topk"):
        step = elements_per_segment(codec)
        values = np.resize(values, 2 * step + 1025)
        segments = encode(codec, values)
        found = Encoded(codec, segments, values.size)
        whole = np.array(Encoded(codec, segments, values.size).span(0, values.size))
        for start, stop in (
            (0, 5),
            (step - 3, step),
            (step - 3, step + 3),
            (step - 2, step + 2),
            (step + 257, step + 300),
            (2, 2 * step + 5),
            (2 * step + 1000, values.size),
            (values.size, values.size),
        ):
            assert found.span(start, stop).tobytes() == whole[start:stop].tobytes()
        shared = [np.shares_memory(found.span(0, 9), np.frombuffer(segment, np.uint8)) for segment in segments]
        assert any(shared) == (codec == "fp32"), "what is not encoded is not copied"
        for start, stop in ((-1, 2), (3, 2), (0, values.size + 1)):
            with pytest.raises(ValueError, match="elements"):
                found.span(start, stop)


def test_a_segment_that_is_odd_is_told_and_not_remembered_as_decoded():
    values = np.ones(elements_per_segment("bf16") + 4, np.float32)
    first, second = encode("bf16", values)
    segments = [first, second[:-1]]
    found = Encoded("bf16", segments, values.size)
    for _ in range(2):
        with pytest.raises(WireError):
            found.span(values.size - 1, values.size)
    segments[1] = second
    assert found.span(values.size - 1, values.size).tolist() == [1.0]


def test_a_span_that_could_not_be_read_leaves_nothing_to_be_taken_for_another():
    step = elements_per_segment("bf16")
    values = np.arange(step + 4, dtype=np.float32) % 251
    first, second = encode("bf16", values)
    found = Encoded("bf16", [first, second[:-1]], values.size)
    assert found.span(0, 700).tolist() == values[:700].tolist()
    with pytest.raises(WireError):
        found.span(step - 500, step + 1)
    assert found.span(0, 700).tolist() == values[:700].tolist()


# -- the promise ------------------------------------------------------------------------------------------------------


class Slow(MemoryStore):
    """While it writes, others go on: the newest round known rises once."""

    def __init__(self) -> None:
        super().__init__()
        self.node: Parts | None = None
        self.written: list[int] = []

    def save_identity(self, identity: Identity) -> None:
        super().save_identity(identity)
        self.written.append(identity.last)
        assert self.node is not None
        self.node.state.ledger.saw_round(7)


def test_a_round_is_written_down_before_it_is_published_and_again_when_the_floor_rose():
    async def main() -> None:
        store = Slow()
        one = store.node = parts(store=store)
        entry = await one.publish(ones())
        assert entry is not None
        assert (entry.manifest.round, store.written) == (7, [1, 7])
        assert store.load_identity() == Identity(
            peer=one.me, incarnation=one.state.incarnation, last=7, run_id=one.state.run_id
        )

    run(main)


class Full(MemoryStore):
    def save_identity(self, identity: Identity) -> None:
        raise StoreError("no space left")


def test_a_full_disk_costs_a_warning():
    async def main() -> None:
        one = parts(store=Full())
        assert await one.publish(ones()) is not None
        assert [(w.code, w.text) for w in one.warnings()] == [("store", "no space left; training goes on in memory")]

    run(main)


# -- the residual -----------------------------------------------------------------------------------------------------


def residual(one: Parts) -> Vector:
    return one.state.replica.residual


def seal_without_me(one: Parts) -> None:
    """The others seal the next round without my contribution."""
    one.state.ledger.seal(link_after(one.state.ledger.tip))
    one.authoring.balance()


def test_what_compression_loses_leaves_with_the_next_contribution():
    async def main() -> None:
        one = parts(config=NodeConfig(codec="bf16"))
        delta = ones(value=1.0 + 2.0**-10)
        first = await one.publish(delta)
        assert first is not None
        assert residual(one).tolist() == (delta - decoded(first)).tolist() == [2.0**-10] * WHOLE.size(BLUEPRINT)
        second = await one.publish(ones(value=1.0 - 2.0**-10))
        assert second is not None
        assert decoded(second).tolist() == [1.0] * WHOLE.size(BLUEPRINT)
        assert not residual(one).any()

    run(main)


def test_work_a_round_was_sealed_without_leaves_with_the_next_contribution():
    async def main() -> None:
        one = parts()
        await one.publish(ones(SLICES[1], 2.0), SLICES[1])
        seal_without_me(one)
        assert residual(one).sum() == 2.0 * SLICES[1].size(BLUEPRINT)
        one.authoring.balance()
        assert residual(one).sum() == 2.0 * SLICES[1].size(BLUEPRINT), "once"
        entry = await one.publish(ones(SLICES[2]), SLICES[2])
        assert entry is not None
        overlap = SLICES[1].overlap(SLICES[2], BLUEPRINT)
        assert 0 < overlap < SLICES[1].size(BLUEPRINT)
        assert decoded(entry).sum() == SLICES[2].size(BLUEPRINT) + 2.0 * overlap
        assert residual(one).sum() == 2.0 * (SLICES[1].size(BLUEPRINT) - overlap), "the rest waits for its slice"

    run(main)


def test_work_that_is_counted_after_all_leaves_the_residual():
    async def main() -> None:
        one = parts()
        entry = await one.publish(ones())
        assert entry is not None
        genesis = one.state.ledger.tip
        seal_without_me(one)
        seal_without_me(one)
        assert residual(one).sum() == WHOLE.size(BLUEPRINT)
        copied(entry, one)
        with_me = Link(round=1, chain=link_after(genesis, [entry]).chain, weight=65536, ids=(entry.id,))
        one.state.ledger.switch(0, [with_me])
        one.authoring.balance()
        assert not residual(one).any()

    run(main)


def test_work_that_comes_too_late_for_everybodys_gate_is_carried_by_the_next():
    async def main() -> None:
        one = parts(config=NodeConfig(run=RunConfig(staleness_max_rounds=3)))
        _, base = await one.authoring.head(WHOLE)
        one.state.ledger.saw_round(4)
        assert await one.authoring.publish(WHOLE, ones(), 1, base) is None
        assert [w.code for w in one.warnings()] == ["refused-own"]
        assert residual(one).tolist() == ones().tolist()
        one.state.ledger.saw_round(5)
        assert (await one.authoring.publish(WHOLE, ones(), 1, Base(2, base.chain))) is not None
        assert not residual(one).any()

    run(main)


def test_after_the_end_nothing_is_published_and_nothing_lost():
    async def main() -> None:
        one = parts()
        await one.publish(ones())
        seal_without_me(one)
        one.state.ledger.set_limit(1)
        assert one.state.ledger.floor == FLOOR_NEVER
        assert await one.publish(ones(value=3.0)) is None
        assert residual(one).tolist() == ones(value=4.0).tolist()
        assert one.state.ledger.entries == {}

    run(main)


def test_what_balancing_finds_is_added_up_in_the_executor():
    async def main() -> None:
        one = parts()
        await one.publish(ones(SLICES[1], 2.0), SLICES[1])
        seal_without_me(one)
        replica = one.state.replica
        assert replica.is_owing
        await one.authoring.settle()
        assert not replica.is_owing
        assert residual(one).sum() == 2.0 * SLICES[1].size(BLUEPRINT)

    run(main)


def test_own_contributions_are_remembered_for_four_horizons():
    async def main() -> None:
        one = parts(config=NodeConfig(run=RunConfig(horizon_rounds=2)))
        for _ in range(50):
            await one.publish(ones())
            seal(one.state.ledger)
            one.authoring.balance()
        pinned = one.state.ledger.pinned
        kept = [round_ for round_, mine in one.authoring._mine.items() if mine.id in pinned]
        assert len(pinned) == len(kept)
        assert kept == list(range(50 - 8, 51))
        assert list(one.authoring._mine) == list(range(1, 51)), "of the older ones only whether they count"

    run(main)


def test_of_very_old_contributions_nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(authoring, "TOO_LATE_WATCHED_ROUNDS", 20)

    async def main() -> None:
        one = parts(config=NodeConfig(run=RunConfig(horizon_rounds=2)))
        for _ in range(50):
            await one.publish(ones())
            seal(one.state.ledger)
            one.authoring.balance()
        assert list(one.authoring._mine) == list(range(30, 51))

    run(main)


def test_a_change_of_mind_about_old_work_is_told_and_nothing_sent_again():
    async def main() -> None:
        one = parts(config=NodeConfig(run=RunConfig(horizon_rounds=1)))
        entry = await one.publish(ones())
        assert entry is not None
        genesis = one.state.ledger.tip
        for _ in range(8):
            seal(one.state.ledger)
            one.authoring.balance()
        one.state.ledger.install([genesis, *links_without_me(genesis, 9)], Grafts())
        for loss in list(one.state.ledger.losses):
            one.state.ledger.losses.remove(loss.key)
        one.authoring.balance()
        assert [w.code for w in one.warnings()] == ["too-late"]
        assert not residual(one).any()

    run(main)


def links_without_me(after: Link, count: int) -> list[Link]:
    made = [link_after(after)]
    while len(made) < count:
        made.append(link_after(made[-1]))
    return made


@dataclass
class Account:
    """Produces work at random while the chain does what it likes, and keeps its own books in float64."""

    one: Parts
    rng: random.Random
    produced: np.ndarray = field(default_factory=lambda: np.zeros(BLUEPRINT.size))
    mine: list[Entry] = field(default_factory=list)

    async def publish(self) -> None:
        sub_model = self.rng.choice(SLICES)
        values = np.random.default_rng(self.rng.getrandbits(32)).standard_normal(sub_model.size(BLUEPRINT))
        delta = values.astype(np.float32)
        self.add(self.produced, sub_model, delta, 1)
        entry = await self.one.publish(delta, sub_model)
        if entry is not None:
            self.mine.append(entry)

    @staticmethod
    def add(books: np.ndarray, sub_model: SubModel, values: Vector, sign: int) -> None:
        scatter_add(BLUEPRINT, books, sub_model, sign * values.astype(np.float64))  # type: ignore[arg-type]

    def links(self, after: Link, count: int) -> list[Link]:
        """A chain that counts some of what I ever published to its rounds."""
        made: list[Link] = []
        for _ in range(count):
            at = made[-1] if made else after
            entries = [e for e in self.mine if e.manifest.round == at.round + 1 and self.rng.random() < 0.5]
            for entry in entries:
                copied(entry, self.one)
            made.append(link_after(at, entries))
        return made

    async def step(self) -> None:
        ledger, what = self.one.state.ledger, self.rng.randrange(6)
        if what < 3:
            await self.publish()
        elif what == 3:
            seal(ledger)
        elif what == 4:
            ledger.seal(self.links(ledger.tip, 1)[0])
        else:
            fork = self.rng.randrange(max(0, ledger.tip.round - 5), ledger.tip.round + 1)
            links = self.links(ledger.links[fork], self.rng.randrange(1, 7))
            if fork < ledger.tip.round:
                ledger.switch(fork, links)
        self.one.authoring.balance()

    def missing(self) -> float:
        """Largest difference between what I produced and what the chain counts plus the residual, all rounds sealed."""
        ledger, books = self.one.state.ledger, self.produced.copy()
        while ledger.tip.round < ledger.newest:
            seal(ledger)
            self.one.authoring.balance()
        for entry in self.mine:
            if ledger.counts(entry.id, entry.manifest.round):
                self.add(books, entry.manifest.sub_model, decoded(entry), -1)
        return float(np.abs(books - residual(self.one)).max())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["fp32", "bf16"]))
def test_what_is_counted_and_the_residual_are_everything_i_produced(seed, steps, codec):
    async def main() -> None:
        rng = random.Random(seed)
        account = Account(parts(config=NodeConfig(codec=codec, run=RunConfig(horizon_rounds=16))), rng)
        for _ in range(steps):
            await account.step()
        assert account.missing() < 1e-4

    run(main)


def test_the_books_would_notice():
    """A residual that is not balanced leaves a gap in the account above."""

    async def main() -> float:
        account = Account(parts(), random.Random(1))
        await account.publish()
        account.one.state.ledger.seal(link_after(account.one.state.ledger.tip))
        return account.missing()

    assert run(main) > 0.1


def test_a_new_author_owes_nothing():
    async def main() -> None:
        one = parts()
        Authoring(one.state).balance()
        assert not residual(one).any()

    run(main)
