"""A node's numbers as OpenMetrics text, read when somebody asks: nothing is kept besides what events said.

| name | labels | what |
|---|---|---|
| `p2pfusion_round` | | the newest round this node published to |
| `p2pfusion_tip_round` | | the newest sealed round of its chain |
| `p2pfusion_loss`, `p2pfusion_accuracy` | | the last ones told; absent until then |
| `p2pfusion_covered` | `of` | share that somebody has trained since it began: `scalars`, `units`, `pairs` of units |
| `p2pfusion_peers` | `state` | other members: `alive`, `suspect`, `dead` |
| `p2pfusion_bytes_total` | `direction`, `kind` | bodies: `sent`, `received`; `payload`, `header`, `gossip` |
| `p2pfusion_calls_total` | `direction` | calls: mine are `sent` |
| `p2pfusion_peer_bytes_total` | `peer`, `direction`, `kind` | the same per peer id; `unknown` is nobody in particular |
| `p2pfusion_patience_seconds` | | how long it waits for the others at most |
| `p2pfusion_round_seconds` | `phase` | `_sum` and `_count`: seconds spent in `train`, `wait` |
| `p2pfusion_ledger_bytes` | | payloads of contributions in memory |
| `p2pfusion_warnings_total` | `code` | what it warned of |
| `p2pfusion_loop_lag_seconds` | | the longest its event loop stood still in the last 10 s |

The names are a contract: more may come, none goes. Where the text is served is `net.local_http`'s business.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from p2pfusion.algorithms.base import DIRECTIONS, RoundReport, Traffic
from p2pfusion.node import Event, Node, WarningEvent
from p2pfusion.wire.routes import KINDS

CONTENT_TYPE = CONTENT_TYPE_LATEST
LAG_TICK_S = 0.25
"""Between two looks at the clock: a loop that stands still longer than a tick cannot be missed."""
LAGS_KEPT = 40
"""Ten seconds of them: what stood still between two scrapes, usually 15 s apart, is mostly seen and soon forgotten."""
CODES_MAX = 64
"""Different warnings that are counted apart: the program has fewer."""


class Metrics(Collector):
    """Collects from one node; `text` is what a scraper gets."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._report: RoundReport | None = None
        self._warnings: Counter[str] = Counter()
        self._phases: dict[str, tuple[int, float]] = {}
        self._lags_s: deque[float] = deque(maxlen=LAGS_KEPT)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All of it, in OpenMetrics text."""
        return bytes(generate_latest(self._registry))  # type: ignore[no-untyped-call]  # the only one of it

    def feed(self, event: Event) -> None:
        """Take what the node told."""
        if isinstance(event, RoundReport):
            self._report = event
            for phase, taken_s in event.seconds.items():
                count, total_s = self._phases.get(phase, (0, 0.0))
                self._phases[phase] = (count + 1, total_s + taken_s)
        elif isinstance(event, WarningEvent) and (event.code in self._warnings or len(self._warnings) < CODES_MAX):
            self._warnings[event.code] += 1

    def lagged(self, lag_s: float) -> None:
        """The loop was that late."""
        self._lags_s.append(max(0.0, lag_s))

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield from self._gauges()
        yield from self._covered()
        yield self._peers()
        yield from self._bytes()
        phases = SummaryMetricFamily("p2pfusion_round_seconds", "Seconds of rounds by phase", labels=["phase"])
        for phase, (count, total_s) in sorted(self._phases.items()):
            phases.add_metric([phase], count_value=count, sum_value=total_s)
        yield phases
        warnings = CounterMetricFamily("p2pfusion_warnings", "Warnings by code", labels=["code"])
        for code, number in sorted(self._warnings.items()):
            warnings.add_metric([code], number)
        yield warnings

    def _gauges(self) -> Iterator[Metric]:
        state, report = self._node.state, self._report
        values = {
            "round": ("The newest round this node published to", state.ledger.last),
            "tip_round": ("The newest sealed round", state.ledger.tip.round),
            "patience_seconds": ("Longest wait for the others", state.cadence.patience_s),
            "ledger_bytes": ("Payloads of contributions in memory", state.ledger.held_bytes),
            "loop_lag_seconds": ("Longest stop of the event loop in the last 10 s", max(self._lags_s, default=0.0)),
            "loss": ("Mean loss of the last round", None if report is None else report.loss),
            "accuracy": ("Accuracy measured last, 0 to 1", state.measured.accuracy),
        }
        for name, (words, value) in values.items():
            if value is not None:
                yield GaugeMetricFamily(f"p2pfusion_{name}", words, value=value)

    def _covered(self) -> Iterator[Metric]:
        if self._report is not None:
            shares = {
                "scalars": self._report.covered,
                "units": self._report.covered_units,
                "pairs": self._report.covered_pairs,
            }
            family = GaugeMetricFamily("p2pfusion_covered", "Trained by somebody so far, 0 to 1", labels=["of"])
            for name, share in shares.items():
                family.add_metric([name], share)
            yield family

    def _peers(self) -> Metric:
        membership = self._node.state.membership
        counts = Counter(status for _, status in membership.reports())
        counts["dead"] = len(membership.dead())
        family = GaugeMetricFamily("p2pfusion_peers", "Other members by state", labels=["state"])
        for status in ("alive", "suspect", "dead"):
            family.add_metric([status], counts[status])
        return family

    def _bytes(self) -> Iterator[Metric]:
        accounts = self._node.state.accounts
        total = accounts.total()
        calls = CounterMetricFamily("p2pfusion_calls", "Calls; mine are sent", labels=["direction"])
        calls.add_metric(["sent"], total.calls_sent)
        calls.add_metric(["received"], total.calls_received)
        yield calls
        family = CounterMetricFamily("p2pfusion_bytes", "Bytes of bodies", labels=["direction", "kind"])
        _add_bytes(family, [], total)
        yield family
        family = CounterMetricFamily("p2pfusion_peer_bytes", "Per peer", labels=["peer", "direction", "kind"])
        for peer, traffic in accounts.by_peer().items():
            _add_bytes(family, [peer.hex() or "unknown"], traffic)
        yield family


def _add_bytes(family: CounterMetricFamily, labels: list[str], traffic: Traffic) -> None:
    for direction in DIRECTIONS:
        for kind in KINDS:
            family.add_metric([*labels, direction, kind], traffic.bytes_of(direction, kind))


@asynccontextmanager
async def measuring(node: Node) -> AsyncIterator[Metrics]:
    """Metrics of this node, fed with its events and the lag of its loop until the block ends."""
    metrics = Metrics(node)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(_read(node, metrics))
        ticking = tasks.create_task(_tick(metrics))
        try:
            yield metrics
        finally:
            reading.cancel()
            ticking.cancel()


async def _read(node: Node, metrics: Metrics) -> None:
    async for event in node.state.events.follow():
        metrics.feed(event)


async def _tick(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + LAG_TICK_S
        await asyncio.sleep(LAG_TICK_S)
        metrics.lagged(loop.time() - due_s)
