"""What the parts of a node share: identity, ledger, membership, replica, counters, and the bells that wake them.

One loop thread owns all of it; executor work gets references to values that are never changed in place. It decides
nothing but what this node says of itself: its report.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from p2pfusion.algorithms.base import Algorithm
from p2pfusion.config import DIGESTS_PER_REPORT_MAX, NodeConfig
from p2pfusion.core.replica import Replica
from p2pfusion.core.schemes import rate_of
from p2pfusion.node.contents import Measured
from p2pfusion.node.disk import Disk
from p2pfusion.node.events import EventLog, PeerEvent, WarningEvent
from p2pfusion.node.traffic import Accounts
from p2pfusion.seams import Compute, Discovery, Store, Transport
from p2pfusion.swarm.ahead import Ahead
from p2pfusion.swarm.cadence import Cadence
from p2pfusion.swarm.gossip import Spoken, Wanted
from p2pfusion.swarm.ledger import Entry, Ledger, MemberLine
from p2pfusion.swarm.membership import Change, Membership
from p2pfusion.swarm.probing import Prober
from p2pfusion.swarm.rates import Rates
from p2pfusion.swarm.thrift import Thrift
from p2pfusion.wire.codec import genesis_chain
from p2pfusion.wire.messages import ContributionId, PeerId, Report, Role, Rumour, RunDescription, ShardReport

ANSWERS_PROOF = 2
"""Times my raised incarnation was raised above again, until only a living copy explains it: two third parties may
remember an old life of mine at different incarnations."""
INCARNATION_MAX = 2**53 - 2
"""A higher one could not be contradicted: no number above it fits the wire."""
LIFE = 1 << 20
"""Incarnations of one life: the number of starts is on disk, refutations since then are added below it."""
COPIED = (
    "another node uses this identity: its state folder was copied; stop one of them or start it with --fresh "
    "(two nodes of one identity overwrite each other's work)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """The ways to the outside; randomness is the fifth."""

    transport: Transport
    discovery: Discovery
    compute: Compute
    store: Store
    rng: random.Random


class Bell:
    """Wakes one task; rings are not counted."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """True when it rang before `timeout_s` ended."""
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class State:
    """Everything about one node that more than one of its tasks needs."""

    def __init__(self, config: NodeConfig, algorithm: Algorithm, doors: Doors, described: RunDescription) -> None:
        self.config = config
        self.algorithm = algorithm
        self.doors = doors
        self.described = described
        self.blueprint = algorithm.blueprint
        self.me: PeerId = described.sender
        self.name = config.name
        self.incarnation = 1
        self.addresses: tuple[str, ...] = ()
        self.role: Role = "syncing"
        self.stop: int | None = None
        """The round at which the run ends for everybody; my own `until_rounds` concerns nobody else."""
        gossip = config.gossip
        grace_s = max(gossip.suspicion_s, 4 * gossip.gossip_interval_s)
        self.ledger = Ledger(self.me, b"", config.run, grace_s=grace_s)
        self.membership = Membership(self.me, gossip)
        self.prober = Prober(gossip, doors.rng)
        self.is_leaving = False
        self.cadence = Cadence(config.cadence)
        self.rates = Rates()
        self.thrift = Thrift(config)
        self.ahead = Ahead(config.cadence)
        self.spoken = Spoken()
        self.wanted = Wanted(self.me)
        self.needed: dict[ContributionId, None] = {}
        self.replica = Replica(self.blueprint, algorithm.genesis)
        self.model_hash = b""
        self.measured = Measured()
        self.run_id = b""
        self.accounts = Accounts()
        self.late = 0
        self.is_full = False
        """Payloads take all the memory they may and more: others' new work waits (`memory`)."""
        self.newcomer_s = 0.0
        self.first_round = 0
        """The tip from which I began to train together with others who had not begun either."""
        self.events = EventLog()
        self.disk = Disk(doors.store, doors.compute, self.warn)
        self.bells = {name: Bell() for name in ("gossip", "fetch", "chain", "round", "memory")}
        self._last_report: Report | None = None
        self._lines: dict[PeerId, tuple[Report, MemberLine]] = {}
        self._was_raised = self._was_copied = False
        self._answers = 0
        self.is_displaced = False
        """Another live node uses my identity, and of us two I am the one to go if I have not begun."""
        self.doubted_s: float | None = None
        """When somebody last spoke of me what I had not said."""

    def begin(self, run_id: bytes, model_hash: bytes) -> None:
        """The run is known: its chain begins at genesis."""
        self.run_id = run_id
        self.model_hash = model_hash
        self.ledger = Ledger(self.me, genesis_chain(run_id), self.config.run, grace_s=self.ledger.grace_s)
        if self.stop_round is not None:
            self.ledger.set_limit(self.stop_round)

    @property
    def stop_round(self) -> int | None:
        """The last round I take part in: my own end or everybody's, whichever is first."""
        ends = [end for end in (self.config.until_rounds, self.stop) if end is not None]
        return min(ends, default=None)

    @property
    def bytes_sent(self) -> int:
        """Bodies only, as everywhere."""
        return self.accounts.total().sent

    @property
    def bytes_received(self) -> int:
        return self.accounts.total().received

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def stir(self) -> None:
        """Something changed: every task looks again."""
        for bell in self.bells.values():
            bell.ring()

    # -- what I say of myself ---------------------------------------------------------------------------------------

    def report(self, *, is_beat: bool = False) -> Report:
        """My own line; its beat rises when anything changed, or when asked to show that I live."""
        ledger, last = self.ledger, self._last_report
        digests = tuple(sorted(ledger.digests().items()))[:DIGESTS_PER_REPORT_MAX]
        shard = ShardReport(
            shard=0,
            tip_round=ledger.tip.round,
            tip_chain=ledger.tip.chain,
            tip_weight=ledger.tip.weight,
            newest=ledger.newest,
            floor=ledger.floor,
            model_hash=self.model_hash,
            digests=digests,
        )
        report = Report(
            peer=self.me,
            name=self.name,
            addresses=self.addresses,
            incarnation=self.incarnation,
            beat=last.beat if last else 0,
            role=self.role,
            owes_graft=bool(ledger.losses),
            stop=self.stop,
            shards=(shard,),
        )
        if is_beat or report != last:
            self._last_report = report = replace(report, beat=report.beat + 1)
        return report

    def lines(self) -> list[MemberLine]:
        """What the ledger needs of the members besides me; those still syncing do not vote.

        Except on the first round: nodes that start together, or again, are all syncing; the first to begin would seal
        it alone.
        """
        first, now_s = self.first_round, self.now_s()
        open_s = now_s - self.ledger.opened_at_s.get(first + 1, now_s)
        is_first = self.ledger.tip.round == first and open_s < self.config.gossip.suspicion_s
        before, self._lines = self._lines, {}
        lines = []
        for report, status in self.membership.reports():
            if (is_first or report.role != "syncing") and report.shards:
                known = before.get(report.peer)
                if known is None or known[0] is not report or known[1].is_suspect != (status == "suspect"):
                    known = report, _line(report.shards[0], is_suspect=status == "suspect")
                self._lines[report.peer] = known
                lines.append(known[1])
        return lines

    # -- what others did --------------------------------------------------------------------------------------------

    def tell(self, changes: Sequence[Change]) -> None:
        """Members changed: say so, and look again."""
        for change in changes:
            if change.status == "alive":
                self.newcomer_s = self.newcomer_s if change.before == "suspect" else self.now_s()
            else:
                self.spoken.forget(change.peer)
            if change.status in ("dead", "left"):
                self.rates.forget(change.peer)
            self.events.add(PeerEvent(change.name, change.peer.hex(), change.status))
        if changes:
            self.stir()

    def refute(self, rumour: Rumour) -> None:
        """Somebody thinks I am dead, or dying, or gone: I say that I am not, louder, and that I was hard to reach."""
        if self.incarnation <= rumour.incarnation < INCARNATION_MAX and not self.is_leaving:
            self.incarnation = rumour.incarnation + 1
            self.prober.refuted()
            self.bells["gossip"].ring()

    def seen_myself(self, report: Report, *, is_direct: bool) -> None:
        """A report about my own id that I did not make: somebody runs a copy of my state folder, or I run an old one.

        An old backup of the folder starts below what others remember: I go on above it. Who speaks to me as myself,
        or goes on above me in turn, is a copy that lives; that is told once. It stays if it has begun already; of two
        that have not, the one with the smaller addresses, which both can see.
        """
        mine = self._last_report
        is_other = report.addresses != self.addresses or mine is None or report.beat > mine.beat
        if report.incarnation < self.incarnation or (report.incarnation == self.incarnation and not is_other):
            return  # an older life of mine, or my own words come back
        self.doubted_s = self.now_s()
        is_answer = self._was_raised and report.incarnation - self.incarnation < LIFE
        self._answers += is_answer
        if is_direct or self._answers >= ANSWERS_PROOF:
            self.is_displaced |= report.role != "syncing" or report.addresses <= self.addresses
        if (is_direct or is_answer) and not self._was_copied:
            self._was_copied = True
            self.warn("copied-state", COPIED)
        if report.incarnation < INCARNATION_MAX and not self.is_leaving:
            self._was_raised = True
            self.incarnation = report.incarnation + 1
            self.bells["gossip"].ring()

    def warn(self, code: str, text: str) -> None:
        self.events.add(WarningEvent(code, text))

    def learn_stop(self, stop: int) -> None:
        """Somebody ends the run at this round; the smallest known wins."""
        if self.stop is None or stop < self.stop:
            self.stop = stop
            self.ledger.set_limit(stop)
            self.stir()

    def completed(self, entry: Entry) -> None:
        """All segments of a contribution are here."""
        self.wanted.done(entry.id)
        self.ahead.complete(entry.id, self.now_s())
        manifest = entry.manifest
        if manifest.kind == "work":
            self.rates.heard(manifest.peer, manifest.round, rate_of(self.blueprint, manifest.sub_model))
        if manifest.round > self.ledger.tip.round:
            if manifest.kind == "work":
                self.cadence.arrived(manifest.round, manifest.peer, self.now_s(), manifest.samples)
        else:
            self.late += 1
        self.stir()

    def arrived(self, round_: int) -> dict[PeerId, None]:
        """Authors of complete contributions to a round, open or sealed."""
        if round_ > self.ledger.tip.round:
            return {e.manifest.peer: None for e in self.ledger.counted(round_)}
        return {e.manifest.peer: None for e in self.ledger.sealed_entries(round_) or ()}


def _line(shard: ShardReport, *, is_suspect: bool) -> MemberLine:
    return MemberLine(
        tip_round=shard.tip_round,
        tip_chain=shard.tip_chain,
        floor=shard.floor,
        digests=dict(shard.digests),
        is_suspect=is_suspect,
    )
