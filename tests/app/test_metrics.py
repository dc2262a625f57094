"""What a scraper gets, read by the official parser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from p2pfusion.algorithms.base import Evaluation, RoundReport
from p2pfusion.app import joining, metrics
from p2pfusion.app.metrics import CODES_MAX, LAGS_KEPT, Metrics, measuring
from p2pfusion.node.contents import Measured
from p2pfusion.node.events import WarningEvent
from p2pfusion.sim.loop import run
from tests.node.parts import parts, until
from tests.swarm.made import peer, report


@dataclass
class Holder:
    """All that is read of a node."""

    state: Any


def read(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values, by the labels' names -> value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def scenario(body: Callable[[Any, Metrics], Any]) -> None:
    async def main() -> None:
        state = parts().state
        body(state, Metrics(Holder(state)))  # type: ignore[arg-type]

    run(main)


def test_every_documented_name_is_there_and_no_other(report: Callable[..., RoundReport]) -> None:
    def body(state: Any, made: Metrics) -> None:
        made.feed(report(seconds={"train": 1.5}))
        made.feed(WarningEvent("late", "too late"))
        state.measured = Measured(Evaluation(0.5), 1)
        state.accounts.add("sent", "payload", 1)
        documented = {word for word in (metrics.__doc__ or "").split("`") if word.startswith("p2pfusion_")}
        found = {name.removesuffix("_count").removesuffix("_sum") for name in read(made.text())}
        assert found == documented

    scenario(body)


def test_a_fresh_node_has_no_figures_it_does_not_know() -> None:
    def body(state: Any, made: Metrics) -> None:
        text = made.text()
        assert text.endswith(b"# EOF\n")
        found = read(text)
        assert found["p2pfusion_tip_round"] == {(): 0.0}
        assert found["p2pfusion_peers"] == {("alive",): 0.0, ("suspect",): 0.0, ("dead",): 0.0}
        assert "p2pfusion_loss" not in found
        assert "p2pfusion_accuracy" not in found
        assert all(name.startswith("p2pfusion_") for name in found), "nothing of the process, nothing global"

    scenario(body)


def test_bytes_by_direction_kind_and_peer() -> None:
    def body(state: Any, made: Metrics) -> None:
        state.accounts.add("sent", "payload", 700, peer(2))
        state.accounts.add("received", "gossip", 30)
        state.accounts.call("sent", peer(2))
        found = read(made.text())
        assert found["p2pfusion_bytes_total"]["sent", "payload"] == 700
        assert found["p2pfusion_bytes_total"]["received", "gossip"] == 30
        assert sum(found["p2pfusion_bytes_total"].values()) == 730
        assert found["p2pfusion_peer_bytes_total"]["sent", "payload", peer(2).hex()] == 700
        assert found["p2pfusion_peer_bytes_total"]["received", "gossip", "unknown"] == 30
        assert found["p2pfusion_calls_total"] == {("sent",): 1.0, ("received",): 0.0}

    scenario(body)


def test_members_by_state() -> None:
    def body(state: Any, made: Metrics) -> None:
        for number in (2, 3):
            state.membership.observe(report(number), 0.0)
        state.membership.accuse(peer(3), 1.0)
        assert read(made.text())["p2pfusion_peers"] == {("alive",): 1.0, ("suspect",): 1.0, ("dead",): 0.0}

    scenario(body)


def test_seconds_of_rounds_add_up_by_phase(report: Callable[..., RoundReport]) -> None:
    def body(state: Any, made: Metrics) -> None:
        made.feed(report(loss=2.0, seconds={"train": 1.0, "wait": 0.25}))
        made.feed(report(loss=1.0, seconds={"train": 2.0, "wait": 0.5}))
        found = read(made.text())
        assert found["p2pfusion_round_seconds_sum"] == {("train",): 3.0, ("wait",): 0.75}
        assert found["p2pfusion_round_seconds_count"] == {("train",): 2.0, ("wait",): 2.0}
        assert found["p2pfusion_loss"] == {(): 1.0}

    scenario(body)


def test_what_was_trained_is_told_of_scalars_units_and_pairs(report: Callable[..., RoundReport]) -> None:
    def body(state: Any, made: Metrics) -> None:
        assert "p2pfusion_covered" not in read(made.text()), "nothing is known yet"
        made.feed(report(covered=0.5, covered_units=1.0, covered_pairs=0.25))
        assert read(made.text())["p2pfusion_covered"] == {("scalars",): 0.5, ("units",): 1.0, ("pairs",): 0.25}

    scenario(body)


def test_warnings_by_code_and_no_more_codes_than_may_be() -> None:
    def body(state: Any, made: Metrics) -> None:
        for number in range(CODES_MAX + 1):
            made.feed(WarningEvent(f"code-{number}", "text"))
        made.feed(WarningEvent("code-0", "text"))
        found = read(made.text())["p2pfusion_warnings_total"]
        assert len(found) == CODES_MAX
        assert found["code-0",] == 2.0

    scenario(body)


def test_the_lag_is_the_longest_of_the_last_seconds() -> None:
    def body(state: Any, made: Metrics) -> None:
        for lag_s in (-0.1, 0.75, *[0.125] * (LAGS_KEPT - 1)):
            made.lagged(lag_s)
        assert read(made.text())["p2pfusion_loop_lag_seconds"] == {(): 0.75}
        made.lagged(0.0)
        assert read(made.text())["p2pfusion_loop_lag_seconds"] == {(): 0.125}

    scenario(body)


def test_strange_words_of_peers_stay_one_label() -> None:
    def body(state: Any, made: Metrics) -> None:
        made.feed(WarningEvent('a"\\\n# EOF', "text"))
        assert read(made.text())["p2pfusion_warnings_total"] == {('a"\\\n# EOF',): 1.0}

    scenario(body)


def test_a_node_that_is_measured_is_followed_until_the_block_ends() -> None:
    async def main() -> None:
        state = parts().state
        async with measuring(Holder(state)) as made:  # type: ignore[arg-type]
            state.warn("late", "too late")
            await until(1.0)
            assert read(made.text())["p2pfusion_warnings_total"] == {("late",): 1.0}
            assert len(made._lags_s) in (3, 4)

    run(main)


@pytest.mark.asyncio
async def test_join_serves_them_where_it_says(view: Any, scripted: Callable[..., Any]) -> None:
    node = scripted([])
    node.state = parts().state
    async with joining._measured(node, 0, view) as measured:
        assert measured is node
        (words,) = view.notes
        url = words.removeprefix("metrics at ")
        port = int(url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert b"application/openmetrics-text; version=1.0.0" in head
        assert read(body)["p2pfusion_round"] == {(): 0.0}
    assert node.has_left
