"""A node of the protocol model that carries a real `Ledger` beside it, is driven by the same events, and compares.

The model decides who talks to whom and when; each of its moves is made on the ledger as well, through the ledger's own
interface. The two know nothing of each other's ids and hashes: `Names` holds the translation and insists that equal
things stay equal and different ones different. Three moves of the model are made in the package's way: equal grafts
are told apart by the real ids, a side that weighs nothing is owed nothing, and nobody puts two grafts in one round.

Segments of what a clogged link holds back are missing here, so that incomplete contributions take part as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from p2pfusion.config import RunConfig
from p2pfusion.core.submodel import SubModel
from p2pfusion.swarm import grafts
from p2pfusion.swarm.grafts import cover_segments, share_of
from p2pfusion.swarm.ledger import Entry, Ledger, MemberLine
from p2pfusion.wire.codec import contribution_id, genesis_chain
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, Graft, SegmentInfo
from tests.oracle import protocol_model as model

PIECES = (b"first", b"second")
SEGMENTS = tuple(SegmentInfo(blake3(piece).digest(), len(piece)) for piece in PIECES)


class Names:
    """The model's names and the ledger's, one to one, for the whole world."""

    def __init__(self) -> None:
        self.there: dict[Any, bytes] = {}
        self.back: dict[bytes, Any] = {}

    def same(self, name: Any, real: bytes) -> None:
        assert self.there.setdefault(name, real) == real, f"{name} was something else before"
        assert self.back.setdefault(real, name) == name, f"{real.hex()} is {name} and {self.back[real]}"

    def ids(self, real: Any) -> frozenset[Any]:
        return frozenset(self.back[id_] for id_ in real)


def manifest_of(
    c: model.Contribution, base_chain: bytes, graft: Graft | None, covers: tuple[bytes, ...]
) -> Contribution:
    return Contribution(
        shard=0,
        round=c.round,
        peer=c.author.to_bytes(16, "big"),
        kind="graft" if graft else "work",
        base_round=c.round - 1,
        base_chain=base_chain,
        weight=1 if graft else c.weight,
        samples=0 if graft else 1,
        sub_model=SubModel(("all",)),
        codec="fp32",
        segments=(*SEGMENTS, *(SegmentInfo(blake3(piece).digest(), len(piece)) for piece in covers)),
        graft=graft,
    )


class Twin(model.Node):
    """One node, twice. Subclasses made by `twins` know their world."""

    horizon: int
    limit: int | None
    ids: Names
    manifests: dict[str, tuple[Contribution, tuple[bytes, ...]]]
    chains: Names
    digests: Names
    tally: Counter[str]

    def __init__(self, me: int, settings: dict[str, Any], rng: Any) -> None:
        settings["horizon"] = self.horizon
        super().__init__(me, settings, rng)
        start = genesis_chain(b"world")
        self.ledger = Ledger(me.to_bytes(16, "big"), start, RunConfig(horizon_rounds=self.horizon))
        if self.limit is not None:
            self.ledger.set_limit(self.limit)
        self.chains.same("genesis", start)
        self.now = 0.0
        self.promised = 0
        self.is_mirrored = True
        self.is_deciding = False
        self.compared: Any = None
        self.line: MemberLine | None = None

    @property
    def floor(self) -> int:
        """The model's falls when a switch takes its tip back; what was promised stays promised (PROTOCOL.md 4). And
        with a limit the ledger knows at once that it will publish no more, the model only when it would.
        """
        floor = max(super().floor, self.promised)
        return 10**9 if self.limit is not None and floor > self.limit else floor

    # -- every move, on both ------------------------------------------------------------------------------------------

    def report(self) -> None:
        super().report()
        self.compare()
        assert self.line is not None
        self.reports[self.me][1]["line"] = self.line

    def publish(self) -> None:
        assert self.seen_floor(self.ledger.floor) == self.seen_floor(self.floor)
        super().publish()
        if not self.done:
            self.ledger.published(self.last)
        elif self.ledger.limit is None:
            self.ledger.set_limit(self.settings["rounds"])
            self.ledger.newest = self.newest
        self.compare()

    def add(self, c: model.Contribution) -> None:
        super().add(c)
        if self.is_mirrored:
            self.hold(c)

    def pull(self, other: Twin, now: float) -> None:
        self.now = now
        self.ledger.saw_round(other.newest)
        if self.ledger.limit is not None and other.newest > self.ledger.limit:
            self.ledger.newest = max(self.ledger.newest, other.newest)  # a graft's round; the node waits for the graft
        if self.clogged or other.clogged:  # manifests come through, their last segments do not
            for c in [c for cs in other.open.values() for c in cs.values()]:
                self.hold(c, pieces=c.author % 2)
        super().pull(other, now)
        self.compare()

    def the_graft(self, contributions: list[model.Contribution]) -> model.Contribution | None:
        chains = {link.chain for link in self.links}
        fitting = [
            c
            for c in contributions
            if c.key and c.key not in self.tip.grafts and c.after == len(self.tip.grafts) and c.key[1] not in chains
        ]
        return min(fitting, key=lambda c: (-c.weight, -c.length, self.ids.there[c.id]), default=None)

    def try_graft(self, now: float) -> None:
        """As the model does it; of each graft it publishes the ledger must think the same."""
        self.now = now
        for x in list(self.losing):
            has_open = any(c.key and c.after == len(self.tip.grafts) for cs in self.open.values() for c in cs.values())
            if x["key"] in self.tip.grafts:
                self.losing.remove(x)
            elif self.tip.round < x["length"] or has_open:
                x["emit_at"] = None
            elif x["emit_at"] is None:
                x["emit_at"] = now + self.rng.random() * self.settings["patience_s"]
            elif now >= x["emit_at"]:
                self.graft(x)
        self.compare()

    def graft(self, x: dict[str, Any]) -> None:
        self.tally["grafted"] += 1
        loss = next(loss for loss in self.ledger.losses if self.keys_of(loss.key) == x["key"])
        held = [e for slots in self.ledger.open.values() for e in slots.values() if e.manifest.graft and e.is_complete]
        assert all(e.manifest.graft.after != self.ledger.grafts.total for e in held), "one on its way stops only mine"
        share = x["weight"] / (x["weight"] + self.tip.weight - x["fork_weight"])
        assert share_of(loss, self.ledger.tip.weight) == share
        self.done = self.done or self.floor == 10**9
        round_ = self.newest + 1 if self.done else self.floor
        assert self.ledger.graft_round == round_ or (self.done and self.ledger.floor != FLOOR_NEVER)
        while any(c.key and c.author == self.me for c in self.open.get(round_, {}).values()):
            round_ += 1
        ours, theirs, after = self.models[-1], x["model"], len(self.tip.grafts)
        payload = tuple(sorted((i, share * (theirs.get(i, 0) - ours.get(i, 0))) for i in ours.keys() | theirs.keys()))
        id_ = model.digest("graft", self.me, round_, x["key"], self.tip.chain)
        self.add(
            model.Contribution(round_, self.me, id_, x["weight"], x["key"], x["length"], payload, x["covers"], after)
        )
        x["emit_at"] = None

    def keys_of(self, key: tuple[bytes, bytes]) -> tuple[Any, Any]:
        return self.chains.back[key[0]], self.chains.back[key[1]]

    def try_seal(self, now: float) -> None:
        """Each time the model seals, the ledger must want to seal the same; when it stops, the ledger must stop."""
        self.now, self.is_deciding = now, True
        if self.limit is not None and self.floor > self.limit:
            self.done = True  # the ledger knows at once, the model only when it would publish
        super().try_seal(now)
        self.is_deciding = False
        assert self.ripe() is None, "the ledger would seal, the model would not"
        self.compare()

    def seal(self, contributions: list[model.Contribution]) -> None:
        if self.is_mirrored and self.is_deciding:
            self.seal_own(contributions)
        elif self.is_mirrored:
            self.seal_followed(contributions)
        super().seal(contributions)

    def seal_own(self, contributions: list[model.Contribution]) -> None:
        entries = self.ripe()
        assert entries is not None, "the model seals, the ledger would not"
        assert self.ids.ids(e.id for e in entries) == {c.id for c in contributions}
        behind = self.newest - self.tip.round - 1
        self.tally["late" if behind >= 4 * self.horizon else "by majority" if behind >= self.horizon else "by all"] += 1
        self.ledger.seal(self.ledger.next_link(entries))

    def seal_followed(self, contributions: list[model.Contribution]) -> None:
        self.tally["followed"] += 1
        self.ledger.seal(self.ledger.next_link([self.hold(c, wanted=True) for c in contributions]))

    def switch(self, other: Twin) -> None:
        self.tally["switched"] += 1
        self.promised = self.floor
        links = other.ledger.links
        fork = self.ledger.fork_round(links)
        assert fork is not None
        assert self.links[fork].chain == other.links[fork].chain
        assert self.links[fork + 1].chain != other.links[fork + 1].chain
        assert self.ledger.fork_round(links[fork + 1 :]) == fork
        for link in other.links[fork + 1 :]:
            for c in link.contributions:
                self.hold(c, wanted=True)
        mine = frozenset().union(*(x.ids for x in self.links[fork + 1 :]))
        entries = [[self.ledger.entries[id_] for id_ in link.ids] for link in links[fork + 1 :]]
        assert self.ledger.replay(fork, entries) == links[fork + 1 :]
        self.is_mirrored = False
        super().switch(other)
        self.is_mirrored = True
        loss = self.ledger.switch(fork, links[fork + 1 :])
        self.losing = [x for x in self.losing if x["weight"]]
        if loss is not None:
            assert mine <= self.ids.ids(loss.covers) <= self.losing[-1]["covers"]
        self.compare()

    def hold(self, c: model.Contribution, *, pieces: int = len(PIECES), wanted: bool = False) -> Entry | None:
        """The contribution with its first segments reaches the ledger, for the first time or again."""
        if c.id not in self.manifests:
            self.manifests[c.id] = self.made(c)
            self.ids.same(c.id, contribution_id(self.manifests[c.id][0]))
        id_, (manifest, covers) = self.ids.there[c.id], self.manifests[c.id]
        entry = self.ledger.add(id_, manifest, self.now, wanted=wanted)
        if entry is not None:
            for index, piece in enumerate((*PIECES, *covers)[: pieces if pieces < len(PIECES) else None]):
                self.ledger.put(entry, index, piece)
            assert not wanted or entry.is_complete
        return entry

    def made(self, c: model.Contribution) -> tuple[Contribution, tuple[bytes, ...]]:
        """The package's manifest of the model's contribution, and its segments of covered ids."""
        genesis = self.chains.there["genesis"]
        if not c.key:
            return manifest_of(c, genesis, None, ()), ()
        covers = cover_segments(self.ids.there[i] for i in c.covers)
        graft = Graft(
            fork_chain=self.chains.there[c.key[0]],
            lost_chain=self.chains.there[c.key[1]],
            length=c.length,
            weight_lost=c.weight,
            weight_kept=c.weight,
            covers=len(c.covers),
            after=c.after,
        )
        return manifest_of(c, genesis, graft, covers), covers

    def ripe(self) -> tuple[Entry, ...] | None:
        return self.ledger.ripe(self.now, [self.reports[m][1]["line"] for m in self.members(self.now)])

    # -- the comparison -----------------------------------------------------------------------------------------------

    def seen_floor(self, floor: int) -> int:
        """With a limit the ledger promises never to publish again as soon as it can, the model a little later."""
        return min(floor, self.settings["rounds"] + 1)

    def shape(self) -> Any:
        """Changes whenever anything compared could have: sets only grow until the tip moves."""
        ledger = self.ledger
        theirs = [(r, len(slots), sum(e.missing for e in slots.values())) for r, slots in ledger.open.items()]
        mine = [(r, len(cs)) for r, cs in self.open.items()]
        return (ledger.tip, ledger.newest, ledger.floor, len(ledger.entries), theirs), (
            self.tip.chain,
            self.newest,
            mine,
        )

    def compare(self) -> None:
        if self.compared == (shape := self.shape()):
            return
        self.compared = shape
        ledger, tip = self.ledger, self.tip
        self.line = MemberLine(
            tip_round=ledger.tip.round, tip_chain=ledger.tip.chain, floor=ledger.floor, digests=ledger.digests()
        )
        assert [link.round for link in ledger.links] == [link.round for link in self.links]
        assert (ledger.tip.weight, self.ids.ids(ledger.tip.ids)) == (tip.weight, tip.ids)
        for mine, real in zip(self.links, ledger.links, strict=True):
            self.chains.same(mine.chain, real.chain)
        rounds = {r for r, cs in self.open.items() if cs}
        assert set(ledger.digests()) == rounds
        for r in rounds:
            counted = ledger.counted(r)
            assert self.ids.ids(e.id for e in counted) == set(self.open[r])
            assert list(counted) == sorted(counted, key=lambda e: (e.manifest.peer, e.manifest.kind))
            self.digests.same(self.open_digest(r), ledger.digest(r))
        assert ledger.newest == self.newest
        assert self.seen_floor(ledger.floor) == self.seen_floor(self.floor)
        assert ledger.base_round == max(rounds, default=tip.round)
        self.compare_grafts()
        before, self.losing = self.losing, self.owed()  # the ledger forgets at once what is settled
        for i, c in self.mine.items():
            assert ledger.counts(self.ids.there[i], c.round) == self.counts(c)
        self.losing = before
        self.keeps_nothing_else()

    def owed(self) -> list[dict[str, Any]]:
        chains = {link.chain for link in self.links}
        return [x for x in self.losing if x["key"] not in self.tip.grafts and x["key"][1] not in chains]

    def compare_grafts(self) -> None:
        ledger = self.ledger
        assert {self.keys_of(one.key) for one in ledger.grafts.counted} == self.tip.grafts
        assert self.ids.ids(ledger.grafts.ids()) == self.tip.covered
        owed = {x["key"]: x for x in self.owed()}
        assert {self.keys_of(loss.key) for loss in ledger.losses} == set(owed)
        for loss in ledger.losses:
            x = owed[self.keys_of(loss.key)]
            assert (loss.length, loss.weight, loss.fork_weight) == (x["length"], x["weight"], x["fork_weight"])

    def keeps_nothing_else(self) -> None:
        """Every contribution kept is open or sealed; every sealed one can be folded again."""
        held = {id_ for slots in self.ledger.open.values() for id_ in slots}
        for link in self.ledger.links[1:]:
            entries = self.ledger.sealed_entries(link.round)
            assert entries is not None
            assert tuple(sorted(e.id for e in entries)) == link.ids
            held.update(link.ids)
        assert set(self.ledger.entries) == held


def twins(*, horizon: int, limit: int | None) -> type[Twin]:
    """Node classes of one world: its horizon, its end, its names, and a tally of what happened in it."""
    world = {"ids": Names(), "chains": Names(), "digests": Names(), "manifests": {}, "tally": Counter()}
    return type("WorldTwin", (Twin,), {"horizon": horizon, "limit": limit, **world})


def run_world(patch: Callable[[object, str, object], None], seed: int, *, horizon: int, **world: Any) -> Counter[str]:
    """One run of the model (its `run` takes the `world`) with ledgers beside its nodes: how often what happened.

    `patch` is `monkeypatch.setattr`. Odd seeds end the run by a limit of the ledger, even ones by the model's word.
    """
    rounds = world.setdefault("rounds", 40)
    kind = twins(horizon=horizon, limit=rounds if seed % 2 else None)
    patch(model, "Node", kind)
    patch(grafts, "LOSSES_MAX", 99)
    end = model.run(seed, **world)
    for what in ("diverged", "lost", "twice", "work", "switches", "grafts"):
        kind.tally[what] += end[what]
    return kind.tally
