# ruff: noqa
# fmt: off
# The oracle of tests/swarm/test_ledger_oracle.py: the executable model of the protocol, word for word as it was when the
# rules were settled. It is not part of the package and shares no code with it; keep it that way, and do not tidy it.
"""An executable model of PROTOCOL.md sections 3 to 6: publish, seal, follow, switch, graft, residual.

No tensors and no network: a model is a dict {contribution id: coefficient}, so one can read off whether a piece of work
is in the model, and how often. Run it: `python protocol_model.py 0 200` tries seeds 0..199 of six nodes under loss,
crashes, clogged links and partitions, and prints what diverged, was lost or was counted too often.

It is here to settle arguments about the rules and to serve as an oracle for tests, not as code to copy: it keeps every
link and model since genesis, moves whole contributions at once and has a naive failure detector.
"""
import hashlib
import heapq
import random
import sys
from dataclasses import dataclass


def digest(*parts):
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, order=True)
class Contribution:
    round: int
    author: int
    id: str
    weight: int = 1
    # only a graft has these: which fork it heals, how far the losing chain went, what it stands for
    key: tuple = ()                 # (chain at the fork, first losing chain)
    length: int = 0                 # round of the losing tip
    payload: tuple = ()             # ((id, coefficient), ...): share * (W_losing - W_winning)
    covers: frozenset = frozenset()  # ids of the losing side's work
    after: int = 0                  # how many grafts the winning chain counted when this one was computed


@dataclass
class Link:
    round: int
    chain: str
    weight: int                     # since genesis
    ids: frozenset
    contributions: tuple
    grafts: frozenset               # keys counted so far
    covered: frozenset              # ids that grafts stand for so far


class Node:
    def __init__(self, me, settings, rng):
        self.me, self.settings, self.rng = me, settings, rng
        self.links = [Link(0, "genesis", 0, frozenset(), (), frozenset(), frozenset())]
        self.models = [{}]
        self.open = {}              # round -> {id: contribution}
        self.last = self.newest = self.beat = 0
        self.reports, self.heard = {}, {}
        self.mine, self.counted, self.carried, self.residual = {}, {}, {}, {}
        self.losing = []            # what I left behind in a switch and still owe a graft for
        self.clogged = self.done = False
        self.switches = 0

    tip = property(lambda self: self.links[-1])
    members = lambda self, now: [m for m, t in self.heard.items() if now - t < self.settings["dead_s"]]

    @property
    def floor(self):
        """The lowest round I may still publish to: a promise, and it only rises."""
        return 10**9 if self.done else max(self.last + 1, self.newest, self.tip.round + 1)

    def open_digest(self, round):
        return digest(sorted(self.open.get(round, {})))

    def report(self):
        last = max([self.tip.round, *self.open])
        self.beat += 1
        self.reports[self.me] = (self.beat, dict(
            round=self.tip.round, chain=self.tip.chain, floor=self.floor,
            open={r: self.open_digest(r) for r in range(self.tip.round + 1, last + 1)}))

    # -- publish ------------------------------------------------------------------------------------------------------
    def publish(self):
        round = self.floor
        if round > self.settings["rounds"]:
            self.done = True
            return
        self.account()
        c = Contribution(round, self.me, digest("work", self.me, round))
        self.mine[c.id], self.counted[c.id], self.carried[c.id], self.residual = c, True, self.residual, {}
        self.last = round
        self.add(c)

    def add(self, c):
        self.newest = max(self.newest, c.round)
        if c.round > self.tip.round and c.id not in self.tip.covered:
            self.open.setdefault(c.round, {})[c.id] = c

    # -- fold and seal ------------------------------------------------------------------------------------------------
    def the_graft(self, contributions):
        """At most one graft counts in a round, and it must know all grafts counted before."""
        chains = {link.chain for link in self.links}
        ok = [c for c in contributions if c.key and c.key not in self.tip.grafts
              and c.after == len(self.tip.grafts) and c.key[1] not in chains]
        return min(ok, key=lambda c: (-c.weight, -c.length, c.id), default=None)

    def seal(self, contributions):
        round, graft = self.tip.round + 1, self.the_graft(contributions)
        model, weight = dict(self.models[-1]), self.tip.weight
        for c in sorted(contributions):
            if not c.key:
                model[c.id] = model.get(c.id, 0) + 1
                weight += c.weight
        grafts, covered = self.tip.grafts, self.tip.covered
        if graft:
            for i, x in graft.payload:
                model[i] = model.get(i, 0) + x
            grafts, covered, weight = grafts | {graft.key}, covered | graft.covers, weight + graft.weight
        ids = frozenset(c.id for c in contributions)
        self.links.append(Link(round, digest(self.tip.chain, sorted(ids)), weight, ids, tuple(contributions), grafts, covered))
        self.models.append(model)
        self.open.pop(round, None)
        if graft:
            self.open = {r: {i: c for i, c in cs.items() if i not in covered} for r, cs in self.open.items()}

    def try_seal(self, now):
        """Seal the next round when all members agree on it and promise nothing more; late, when most do; at last, alone."""
        while True:
            round = self.tip.round + 1
            if round > self.newest or self.floor <= round:
                return
            agree, members = 1, self.members(now)
            for m in members:
                r = self.reports[m][1]
                agree += (r["chain"] == self.tip.chain and r["floor"] > round
                          and r["open"].get(round, digest([])) == self.open_digest(round))
            behind, horizon = self.newest - round, self.settings["horizon"]
            if behind >= horizon and any(self.reports[m][1]["round"] >= round for m in members):
                return                                                 # somebody is ahead: follow first
            needed = len(members) + 1 if behind < horizon else (len(members) + 1) // 2 + 1 if behind < 4 * horizon else 1
            if agree < needed:
                return
            self.seal(sorted(self.open.get(round, {}).values()))

    # -- gossip, follow, switch ---------------------------------------------------------------------------------------
    def pull(self, other, now):
        for m, (beat, report) in other.reports.items():
            if m != self.me and (m not in self.reports or self.reports[m][0] < beat):
                self.reports[m], self.heard[m] = (beat, report), now
        self.newest = max(self.newest, other.newest)
        if self.clogged or other.clogged:
            return
        mine, theirs = [x.chain for x in self.links], [x.chain for x in other.links]
        if self.tip.chain in theirs:                                   # their chain extends mine: follow
            for link in other.links[theirs.index(self.tip.chain) + 1:]:
                self.seal(link.contributions)
        elif other.tip.chain not in mine and (other.tip.weight, other.tip.chain) > (self.tip.weight, self.tip.chain):
            self.switch(other)
        for cs in other.open.values():
            for c in cs.values():
                self.add(c)

    def switch(self, other):
        theirs = [x.chain for x in other.links]
        fork = max(k for k, x in enumerate(self.links) if x.chain in theirs)
        lost, kept = self.links[fork + 1:], self.links[fork]
        self.losing.append(dict(
            key=(kept.chain, lost[0].chain), model=self.models[-1], length=lost[-1].round, emit_at=None,
            weight=lost[-1].weight - kept.weight, fork_weight=kept.weight,
            covers=lost[-1].covered.union(*(x.ids for x in lost))))
        still_open, self.open = self.open, {}
        self.links, self.models = self.links[:fork + 1], self.models[:fork + 1]
        for link in other.links[theirs.index(kept.chain) + 1:]:
            self.seal(link.contributions)
        for cs in still_open.values():
            for c in cs.values():
                self.add(c)
        chains = {x.chain for x in self.links}
        self.losing = [x for x in self.losing if x["key"][1] not in chains]
        self.switches += 1

    # -- graft --------------------------------------------------------------------------------------------------------
    def try_graft(self, now):
        for x in list(self.losing):
            if x["key"] in self.tip.grafts:
                self.losing.remove(x)
            elif self.tip.round < x["length"] or any(
                    c.key and c.after == len(self.tip.grafts) for cs in self.open.values() for c in cs.values()):
                x["emit_at"] = None                                    # too early, or another graft comes first
            elif x["emit_at"] is None:
                x["emit_at"] = now + self.rng.random() * self.settings["patience_s"]
            elif now >= x["emit_at"]:
                ours = self.models[-1]
                share = x["weight"] / (x["weight"] + self.tip.weight - x["fork_weight"])
                payload = tuple(sorted((i, share * (x["model"].get(i, 0) - ours.get(i, 0)))
                                       for i in ours.keys() | x["model"].keys() if x["model"].get(i, 0) != ours.get(i, 0)))
                round = self.newest + 1 if self.done else self.floor
                self.add(Contribution(round, self.me, digest("graft", self.me, round, x["key"], self.tip.chain), x["weight"],
                                      x["key"], x["length"], payload, x["covers"], len(self.tip.grafts)))
                x["emit_at"] = None

    # -- residual: what I produced minus what my chain counts of it ------------------------------------------------------
    def counts(self, c):
        if c.id in self.tip.covered or any(c.id in x["covers"] for x in self.losing):
            return True
        if c.round <= self.tip.round:
            return c.id in self.links[c.round].ids
        return c.id in self.open.get(c.round, {})

    def account(self):
        for i, c in self.mine.items():
            if (now := self.counts(c)) != self.counted[i]:
                self.counted[i] = now
                for j, x in [(i, 1), *self.carried[i].items()]:
                    self.residual[j] = self.residual.get(j, 0) + (-x if now else x)
        self.residual = {i: x for i, x in self.residual.items() if x}


def run(seed, n=6, rounds=40, partitions=True, lids=0.0):
    """`lids`: how likely a node is to fall asleep, for up to 6 s, in each 6.5 s; it keeps its state."""
    rng = random.Random(seed)
    settings = dict(rounds=rounds, dead_s=rng.choice([3.0, 6.0, 15.0]), patience_s=1.5, quorum=0.75, horizon=8)
    nodes = [Node(i, settings, rng) for i in range(n)]
    for x in nodes:
        x.report()
    for x in nodes:
        x.reports, x.heard = {y.me: y.reports[y.me] for y in nodes}, {y.me: 0.0 for y in nodes if y is not x}
    step_s = [rng.choice([0.2, 0.5, 1.0, 4.0]) for _ in nodes]
    group, alive, loss, patience_ends = [0] * n, [True] * n, rng.choice([0, 0.1, 0.4]), {}
    events, counter, calm = [], 0, rng.uniform(20, 60)

    def at(time, what, *args):
        nonlocal counter
        counter += 1
        heapq.heappush(events, (time, counter, what, args))

    for i in range(n):
        at(rng.random(), "train", i)
        at(rng.random() / 2, "gossip", i)
    time = rng.uniform(1, 6)
    while partitions and time < calm:
        sides = rng.choice([2, 2, 3])
        at(time, "split", [rng.randrange(sides) for _ in range(n)])
        time += rng.uniform(0.5, 12)
        at(time, "split", [0] * n)
        time += rng.uniform(0.3, 8)
    for i in [] if lids else [i for i in range(n) if rng.random() < 0.15][: n - 3]:
        at(rng.uniform(2, calm), "kill", i)
    for i in range(n):
        time = rng.uniform(1, 4)
        while lids and time < calm - 6:
            if rng.random() < lids:
                at(time, "sleep", i)
                at(time + rng.uniform(0.3, 6), "wake", i)
            time += 6.5
    if partitions and rng.random() < 0.5:
        at(rng.uniform(1, calm - 8), "clog", rng.randrange(n), True)
    for i in range(n):
        at(calm - rng.uniform(0, 5), "clog", i, False)
    at(calm, "split", [0] * n)
    at(calm, "calm")

    while events:
        now, _, what, args = heapq.heappop(events)
        if now > 600:
            break
        if what == "split":
            group = args[0]
        elif what == "calm":
            loss = 0
        elif what == "clog":
            nodes[args[0]].clogged = args[1]
        elif what in ("kill", "sleep"):
            alive[args[0]] = False
        elif what == "wake":               # whoever slept knows nothing about the others: all clocks of suspicion start anew
            x = nodes[args[0]]
            alive[x.me], x.heard = True, dict.fromkeys(x.heard, now)
            at(now, "gossip", x.me)
            at(now, "train", x.me)
        elif what == "train" and alive[args[0]]:
            i, x = args[0], nodes[args[0]]
            heard = len({c.author for c in x.open[x.last].values()}) if x.last in x.open else 99
            if x.last and heard < settings["quorum"] * (len(x.members(now)) + 1) and now < patience_ends[i]:
                at(now + 0.1, "train", i)
                continue
            x.publish()
            patience_ends[i] = now + settings["patience_s"]
            if not x.done:
                at(now + step_s[i] * rng.uniform(0.8, 1.3), "train", i)
        elif what == "gossip" and alive[args[0]]:
            i, x = args[0], nodes[args[0]]
            x.report()
            for j in rng.sample([j for j in range(n) if j != i], 2):
                if group[i] == group[j] and alive[j] and rng.random() >= loss:
                    nodes[j].pull(x, now)
                    nodes[j].report()
                    if rng.random() >= loss:
                        x.pull(nodes[j], now)
            x.try_graft(now)
            x.try_seal(now)
            x.account()
            x.report()
            at(now + rng.uniform(0.3, 0.6), "gossip", i)
            live = [x for x in nodes if alive[x.me]]
            if now > calm + 5 and len({x.tip.chain for x in live}) == 1 and all(
                    x.done and not x.losing and x.tip.round >= max(rounds, x.newest) for x in live):
                break

    live = [x for x in nodes if alive[x.me]]
    same = len({x.tip.chain for x in live}) == 1 and all(x.models[-1] == live[0].models[-1] for x in live)
    model, work, lost, twice = live[0].models[-1], 0, 0, 0
    for x in live:
        share = dict(x.residual)
        for i in x.mine:
            for j, y in [(i, 1), *x.carried[i].items()]:
                share[j] = share.get(j, 0) + y * model.get(i, 0)
        work += len(x.mine)
        lost += sum(share.get(i, 0) <= 1e-9 for i in x.mine)
        twice += sum(share.get(i, 0) > 1 + 1e-9 for i in x.mine)
    return dict(diverged=not same, work=work, lost=lost, twice=twice, switches=sum(x.switches for x in live), grafts=len(live[0].tip.grafts))


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    worlds = {"loss and crashes": dict(partitions=False), "closing lids": dict(partitions=False, lids=0.5),
              "partitions, clogged links": dict(partitions=True)}
    for name, world in worlds.items():
        total = {}
        for seed in range(first, last):
            for k, v in run(seed, **world).items():
                total[k] = total.get(k, 0) + v
        print(f"{last - first} seeds, {name}:", total)
