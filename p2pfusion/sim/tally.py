"""Counts what a simulated run came to: the numbers of `Statistics`.

It watches as the checkers do and judges nothing.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from p2pfusion.algorithms.base import RoundReport, Traffic
from p2pfusion.node import Event, PeerEvent, WarningEvent
from p2pfusion.sim.checkers import counted_on, is_alive, is_false_death
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.history import History, Life, Published
from p2pfusion.sim.statistics import Statistics
from p2pfusion.sim.watching import Swarm
from p2pfusion.wire.messages import Link


class Tally:
    """An `Observer` and a `Judge` of the history."""

    def __init__(self, swarm: Swarm, history: History) -> None:
        self._swarm = swarm
        self._history = history
        self._counts: Counter[str] = Counter()
        self._lags: list[int] = []
        self._reported_s: dict[Life, list[float]] = {}
        self._lives: list[Life] = []
        self._last_fault_s = 0.0
        self._agreed_s: float | None = None
        history.judges.append(self)

    # -- as an observer -----------------------------------------------------------------------------------------------

    def look(self, index: int) -> None:
        """The history looks."""

    def told(self, index: int, event: Event) -> None:
        """Count reports, switches and deaths."""
        if isinstance(event, RoundReport):
            self._lags.append(event.round - event.tip_round)
            if index in self._history.lives:
                self._reported_s.setdefault(self._history.lives[index], []).append(self._swarm.now_s)
        elif isinstance(event, WarningEvent):
            self._counts[event.code] += 1
        elif isinstance(event, PeerEvent) and event.state == "dead":
            self._counts["deaths"] += 1
            self._counts["false deaths"] += is_false_death(self._swarm, self._history, event)

    def befell(self, fault: Fault) -> None:
        """After each fault agreement is looked for anew."""
        self._counts[fault.kind] += 1
        self._last_fault_s, self._agreed_s = self._swarm.now_s, None

    def ended(self) -> None:
        """Nothing is counted any more."""

    # -- as a judge ---------------------------------------------------------------------------------------------------

    def started(self, life: Life) -> None:
        """Its traffic is read at the end: the restart is counted already."""
        self._lives.append(life)

    def looked(self, life: Life) -> None:
        """Nothing to count."""

    def published(self, work: Published) -> None:
        """Nothing to count yet: the end shows what became of it."""

    def moved(self, life: Life, before: Link, after: Link) -> None:
        """The first moment since the last fault at which all who live stand on one tip."""
        if self._agreed_s is None:
            living = [machine.node for machine in self._swarm.machines if machine.is_running and machine.node]
            if all(node.state.ledger.tip.chain == after.chain for node in living):
                self._agreed_s = self._swarm.now_s - self._last_fault_s

    # -- the result ---------------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """The numbers, once the run is over."""
        swarm, counts = self._swarm, self._counts
        traffic = [swarm.network.traffic(machine.index + 1) for machine in swarm.machines]
        said = sum((life.node.state.accounts.total() for life in self._lives), Traffic())
        gaps_s = [after - before for times in self._reported_s.values() for before, after in pairwise(times)]
        return Statistics(
            **self._fates(),
            forks=self._history.forks(),
            switches=counts["switched"],
            deaths=counts["deaths"],
            false_deaths=counts["false deaths"],
            crashes=counts["crash"],
            restarts=counts["restart"],
            tip_lag_median=statistics.median(self._lags) if self._lags else None,
            tip_lag_p90=_percentile(self._lags, 90) if self._lags else None,
            round_median_s=statistics.median(gaps_s) if gaps_s else None,
            agreed_s=self._agreed_s,
            sent_bytes=sum(one.sent_bytes for one in traffic),
            payload_bytes=said.payload_sent,
            header_bytes=said.header_sent,
            gossip_bytes=said.gossip_sent,
            messages=sum(one.sent_packets for one in traffic),
        )

    def _final(self) -> Life | None:
        """Of those that reached the end, the one on the heaviest chain."""
        ended = [life for life in self._history.lives.values() if life.node.done is not None]
        return max(ended, key=lambda life: (life.tip.weight, life.tip.chain), default=None)

    def _fates(self) -> dict[str, int]:
        """What became of each published contribution, and how many grafts the final chain counts."""
        final, fates = self._final(), Counter(dict.fromkeys(FATES, 0))
        counted = counted_on(self._history, final) if final is not None else frozenset()
        for work in self._history.work.values():
            is_in, is_durable = work.id in counted, self._is_durable(work)
            fates["published"] += 1
            fates["in_chain"] += is_in
            fates["durable"] += is_durable
            fates["durable_in_chain"] += is_in and is_durable
            if not is_in:
                fates["too_late" if is_alive(self._history, work) else "lost" if is_durable else "orphans"] += 1
        if final is not None:
            fates["grafts"] = sum(link.graft is not None for link in self._history.path(final.tip.chain))
        return dict(fates)

    def _is_durable(self, work: Published) -> bool:
        died_s = work.author.died_s
        return died_s is None or died_s - work.at_s >= work.patience_s


FATES = ("published", "in_chain", "durable", "durable_in_chain", "too_late", "orphans", "lost", "grafts")


def _percentile(values: Sequence[int], percent: int) -> float:
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return float(ordered[max(0, -(-len(ordered) * percent // 100) - 1)])
