"""A node's life from entering to leaving, over the simulated doors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from p2pfusion.algorithms.base import Evaluation, RoundContext, RoundReport, Vector
from p2pfusion.config import CadenceConfig, NodeConfig, RunConfig
from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import PortError, Refused, StoreError, TaskError, TooFewPeers, TrainingError, UsageError
from p2pfusion.node import Done, Event, Node, PeerEvent, WarningEvent
from p2pfusion.node.entering import LOOK_AGAIN_S
from p2pfusion.seams import Checkpoint, Identity, Reply, Store
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.store.memory import MemoryStore
from tests.node.parts import BLUEPRINT, WHOLE, ones, until
from tests.sim.learners import LightLearner

FAST = CadenceConfig(round_min_s=0.0)


class Lan:
    """A simulated LAN to put nodes on."""

    def __init__(self) -> None:
        self.network = Network(random.Random(0), LinkModel())
        self.registry = Registry()

    def node(
        self,
        index: int,
        learner: LightLearner | None = None,
        *,
        store: Store | None = None,
        starts: int = 1,
        rate: float = 0.5,
        observes: Callable[[], bool] = lambda: False,
        **config: Any,
    ) -> Node:
        """`starts`: a device that starts again has other luck."""
        return Node(
            NodeConfig(name=f"node-{index}", **{"cadence": FAST, **config}),
            learner or LightLearner(index, blueprint=BLUEPRINT),
            transport=SimTransport(self.network, index),
            discovery=SimDiscovery(self.registry),
            compute=SimCompute(),
            store=store or MemoryStore(),
            rng=random.Random(index + 1000 * (starts - 1)),
            rate=rate,
            observes=observes,
        )


def on_lan(main: Callable[[Lan], Coroutine[Any, Any, Any]]) -> Any:
    """Run it on a LAN in virtual time; in the end no task may be left."""

    async def whole() -> Any:
        lan = Lan()
        async with lan.network:
            result = await main(lan)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            assert left == [], "tasks outlived their node"
        assert lan.network.handler_errors == 0
        return result

    return run(whole, until_s=300.0)


async def life(node: Node, events: list[Event] | None = None) -> list[Event]:
    """Enter, read all events, leave; they are in `events` also when it raises."""
    events = [] if events is None else events
    async with node:
        async for event in node.events():
            events.append(event)
    return events


def reports(events: list[Event]) -> list[RoundReport]:
    return [event for event in events if isinstance(event, RoundReport)]


def states(events: list[Event]) -> list[str]:
    return [f"{event.name} {event.state}" for event in events if isinstance(event, PeerEvent)]


# -- alone ------------------------------------------------------------------------------------------------------------


def test_alone_a_node_trains_after_the_quiet_period_and_ends_ok():
    async def main(lan: Lan) -> None:
        store = MemoryStore()
        node = lan.node(1, store=store, until_rounds=3)
        events = await life(node)
        *rounds, done = events
        assert isinstance(done, Done)
        assert done == node.done
        assert [report.round for report in reports(rounds)] == [1, 2, 3]
        assert len(rounds) == 3
        for report in reports(rounds):
            assert (report.heard, report.missing, report.late, report.peers) == (1, 0, 0, 1)
            assert (report.bytes_sent, report.bytes_received) == (0, 0)
            assert 0 < report.share < 1
            assert report.coverage == pytest.approx(report.share)
            assert report.loss > 0
            assert report.seconds["train"] > 0
        assert (done.status, done.name, done.round, done.accuracy) == ("ok", "node-1", 3, None)
        assert (done.bytes_sent, done.bytes_received) == (0, 0)
        assert done.model_sha256 == model_sha256(node.model())
        assert done.chain == node.state.ledger.tip.chain.hex()
        assert done.seconds == pytest.approx(2.2, abs=0.4)
        checkpoint = store.load_checkpoint(node.state.run_id)
        assert checkpoint is not None
        assert checkpoint.round == 3
        flat = np.concatenate([np.asarray(checkpoint.model[p.name]).reshape(-1) for p in BLUEPRINT.parameters])
        assert flat.tobytes() == node.model().tobytes()
        identity = store.load_identity()
        assert identity is not None
        assert (identity.peer, identity.last) == (node.state.me, 3)

    on_lan(main)


def test_nothing_happens_before_the_quiet_period_is_over():
    async def main(lan: Lan) -> None:
        node = lan.node(1)
        async with node:
            await until(1.9)
            assert node.state.role == "syncing"
            assert node.state.ledger.newest == 0
            await until(2.5)
            assert node.state.role == "trains"
            assert node.state.ledger.newest > 0

    on_lan(main)


def test_the_models_of_a_node_are_copies():
    async def main(lan: Lan) -> None:
        node = lan.node(1, until_rounds=1)
        await life(node)
        before = node.model()
        node.model()[:] = 0.0
        assert node.model().tobytes() == before.tobytes()

    on_lan(main)


def test_events_can_be_read_by_several_and_after_the_end():
    async def main(lan: Lan) -> None:
        node = lan.node(1, until_rounds=2)
        async with node:
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(read(node)) for _ in range(2)]
            rounds = [report.round async for report in node.rounds()]
        assert readers[0].result() == readers[1].result() == await read(node)
        assert rounds == [1, 2]

    async def read(node: Node) -> list[Event]:
        return [event async for event in node.events()]

    on_lan(main)


def test_a_node_says_who_and_where_it_is():
    async def main(lan: Lan) -> None:
        node = lan.node(1)
        async with node:
            assert (node.name, node.addresses) == ("node-1", (Network.address(1),))
            assert repr(node).startswith("<Node node-1 syncing <Ledger tip 0 ")

    on_lan(main)


# -- ends that are not the planned one --------------------------------------------------------------------------------


def test_too_few_peers():
    async def main(lan: Lan) -> None:
        node, events = lan.node(1, min_peers=2, wait_s=5.0), []
        with pytest.raises(TooFewPeers, match="met 1 of 2 peers"):
            await life(node, events)
        assert events == []
        assert node.done is None
        assert isinstance(node.error, TooFewPeers)
        assert asyncio.get_running_loop().time() == pytest.approx(5.0, abs=0.3)
        with pytest.raises(TooFewPeers):
            await anext(node.rounds())

    on_lan(main)


def test_stop():
    async def main(lan: Lan) -> None:
        node = lan.node(1)
        events: list[Event] = []
        async with node:
            async for event in node.events():
                events.append(event)
                if len(reports(events)) == 2:
                    node.stop()
                    node.stop()
        done = events[-1]
        assert isinstance(done, Done)
        assert done.status == "interrupted"
        assert done.model_sha256 == model_sha256(node.model())

    on_lan(main)


def test_leaving_the_block_is_an_interruption():
    async def main(lan: Lan) -> None:
        node = lan.node(1)
        async with node:
            pass
        assert node.done is not None
        assert (node.done.status, node.done.round) == ("interrupted", 0)
        assert [event async for event in node.events()] == [node.done]

    on_lan(main)


def test_who_observes_looks_again_when_stirred_and_now_and_then():
    async def main(lan: Lan, *, is_stirred: bool) -> float:
        work: list[str] = []
        node = lan.node(1, observes=lambda: not work)
        async with node:
            await until(10.05)
            assert node.state.role == "observes"
            work.append("some")
            if is_stirred:
                node.stir()
            while node.state.role == "observes":
                await until(asyncio.get_running_loop().time() + 0.001)
            began_s = asyncio.get_running_loop().time()
            await until(12.0)
        assert {report.round for report in reports([event async for event in node.events()])} >= {1, 2, 3}
        return began_s - 10.05

    assert on_lan(lambda lan: main(lan, is_stirred=True)) < 0.01
    assert 0.01 < on_lan(lambda lan: main(lan, is_stirred=False)) <= LOOK_AGAIN_S


def test_who_observes_may_be_stopped():
    async def main(lan: Lan) -> None:
        node = lan.node(1, observes=lambda: True)
        async with node:
            await until(5.0)
        assert node.done is not None
        assert (node.done.status, node.done.round) == ("interrupted", 0)
        assert [event async for event in node.events()] == [node.done]

    on_lan(main)


def test_who_observes_has_no_accuracy_to_end_at():
    """A node that trains would be told that it lacks validation data."""

    async def main(lan: Lan) -> None:
        nodes: list[Node] = []
        nodes.append(lan.node(1, observes=lambda: nodes[0].state.ledger.last > 0, until_accuracy=0.5))
        async with nodes[0] as node:
            await until(10.0)
            assert (node.state.role, node.state.ledger.tip.round, node.error) == ("observes", 1, None)

    on_lan(main)


def test_stopping_does_not_wait_for_training():
    async def main(lan: Lan) -> float:
        node = lan.node(1, LightLearner(1, blueprint=BLUEPRINT, cost_s=1000.0))
        async with node:
            await until(3.0)
            node.stop()
            assert [event async for event in node.events()] == [node.done]
        return asyncio.get_running_loop().time()

    assert on_lan(main) < 4.0


def test_timeout():
    async def main(lan: Lan) -> None:
        node = lan.node(1, timeout_s=4.0)
        events = await life(node)
        assert events[-1] == node.done
        assert node.done is not None
        assert node.done.status == "timeout"
        assert node.done.round > 0
        assert node.done.seconds == pytest.approx(4.0, abs=0.1)

    on_lan(main)


def test_who_waits_long_says_for_how_many():
    async def main(lan: Lan) -> None:
        node, events = lan.node(1, min_peers=3, timeout_s=14.0), []
        await life(node, events)
        told = [event.text for event in events if isinstance(event, WarningEvent)]
        assert told == ["waiting to begin: 1 of the 3 of --min-peers are here, yourself counted"]

    on_lan(main)


def test_a_timeout_before_the_first_peer_came():
    async def main(lan: Lan) -> None:
        node = lan.node(1, min_peers=2, timeout_s=4.0)
        assert await life(node) == [node.done]
        assert node.done is not None
        assert (node.done.status, node.done.round) == ("timeout", 0)

    on_lan(main)


class Oops(Exception):
    pass


async def raising(node: Node, error: Oops, at_s: float) -> None:
    async with node:
        await until(at_s)
        raise error


@pytest.mark.parametrize("at_s", [0.0, 1.0, 2.01, 2.2, 2.22, 2.24, 2.26])
def test_what_the_block_raises_comes_out_as_it_is_whatever_the_node_is_doing(at_s):
    async def main(lan: Lan) -> None:
        error = Oops("mine")
        async with lan.node(2), lan.node(3):
            with pytest.raises(Oops) as caught:
                await raising(lan.node(1), error, at_s)
        assert caught.value is error

    on_lan(main)


def test_what_the_block_raises_comes_out_as_it_is():
    async def main(lan: Lan) -> None:
        error, node = Oops("mine"), lan.node(1)
        with pytest.raises(Oops) as caught:
            await raising(node, error, 3.0)
        assert caught.value is error
        assert node.done is None
        async with lan.node(1, until_rounds=1) as another:
            assert another.addresses == node.addresses, "its port is free again"

    on_lan(main)


def test_a_cancelled_block_is_cancelled():
    async def main(lan: Lan) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(life(lan.node(1)))
            await until(2.5)
            task.cancel()
        assert task.cancelled()

    on_lan(main)


def test_a_block_may_have_a_deadline_of_its_own():
    async def main(lan: Lan) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0), lan.node(1) as node:
                await read_for_ever(node)
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    async def read_for_ever(node: Node) -> None:
        async for _ in node.events():
            pass

    on_lan(main)


class Failing(LightLearner):
    """Trains well for one round."""

    def __init__(self, error: Exception) -> None:
        super().__init__(1, blueprint=BLUEPRINT)
        self.error = error

    async def round(self, ctx: RoundContext) -> None:
        if ctx.round > 1:
            await ctx.compute(self.fail, 0.01)
        await super().round(ctx)

    def fail(self) -> None:
        raise self.error


def test_training_that_fails():
    async def main(lan: Lan) -> None:
        error = TrainingError("the loss is nan")
        node = lan.node(1, Failing(error))
        events: list[Event] = []
        with pytest.raises(TrainingError) as caught:
            await life(node, events)
        assert caught.value is node.error is error
        assert len(reports(events)) == 1
        assert events[-1] == node.done
        assert node.done is not None
        assert node.done.status == "failed"
        assert node.done.model_sha256 == model_sha256(node.model())

    on_lan(main)


def test_numbers_that_are_not_finite_fail_the_node():
    class Wild(LightLearner):
        async def round(self, ctx: RoundContext) -> None:
            await ctx.extract(WHOLE)
            await ctx.contribute(WHOLE, ones(value=float("inf")), 1, 0.0)

    async def main(lan: Lan) -> None:
        with pytest.raises(TrainingError, match="not finite"):
            await life(lan.node(1, Wild(1, blueprint=BLUEPRINT)))

    on_lan(main)


def test_an_algorithm_that_has_nothing_to_contribute_keeps_nobody_busy():
    class Idle(LightLearner):
        asked = 0

        async def round(self, ctx: RoundContext) -> None:
            self.asked += 1

    async def main(lan: Lan) -> None:
        idle = Idle(1, blueprint=BLUEPRINT)
        node = lan.node(1, idle, timeout_s=7.0)
        assert await life(node) == [node.done]
        assert node.done is not None
        assert (node.done.status, node.done.round) == ("timeout", 0)
        assert 10 <= idle.asked <= 60

    on_lan(main)


@pytest.mark.parametrize("error", [KeyError("bug"), TimeoutError("the data set's server does not answer")])
def test_an_algorithm_with_a_bug_ends_the_block_and_leaves_nothing_behind(error):
    async def main(lan: Lan) -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            await life(lan.node(1, Failing(error)))
        found: BaseException = caught.value
        while isinstance(found, BaseExceptionGroup):
            (found,) = found.exceptions
        assert found is error

    on_lan(main)


def test_a_port_that_is_taken():
    async def main(lan: Lan) -> None:
        async with lan.node(1):
            with pytest.raises(PortError, match="is taken"):
                await life(lan.node(1))

    on_lan(main)


class Broken(MemoryStore):
    def save_identity(self, identity: Identity) -> None:
        raise StoreError("no space left")

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        raise StoreError("no space left")


def test_without_a_disk_training_goes_on():
    async def main(lan: Lan) -> None:
        events = await life(lan.node(1, store=Broken(), until_rounds=2))
        assert {event.code for event in events if isinstance(event, WarningEvent)} == {"store"}
        done = events[-1]
        assert isinstance(done, Done)
        assert (done.status, done.round) == ("ok", 2)

    on_lan(main)


# -- with others ------------------------------------------------------------------------------------------------------


async def together(*nodes: Node) -> list[list[Event]]:
    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(life(node)) for node in nodes]
    return [task.result() for task in lives]


def test_two_that_end_together_hold_one_model():
    async def main(lan: Lan) -> None:
        one, other = (lan.node(index, min_peers=2, until_rounds=10) for index in (1, 2))
        for node, events in zip((one, other), await together(one, other), strict=True):
            assert node.done is not None
            assert (node.done.status, node.done.round) == ("ok", 10)
            assert events[-1] == node.done, "the last thing that is heard of a node"
            assert [event for event in events if isinstance(event, Done)] == [node.done]
            assert reports(events)[-1].peers == 2
            assert node.done.bytes_sent > 0
            assert node.done.bytes_received > 0
        assert one.done is not None
        assert other.done is not None
        assert one.done.model_sha256 == other.done.model_sha256
        assert one.done.chain == other.done.chain
        assert np.isfinite(one.model()).all()

    on_lan(main)


@pytest.mark.parametrize("how", ["block", "stop"])
def test_leaving_is_told_and_not_found_out_by_silence(how):
    async def main(lan: Lan) -> None:
        staying, leaving = lan.node(1, min_peers=2), lan.node(2, min_peers=2)
        async with staying:
            async with leaving:
                await until(5.0)
                if how == "stop":
                    leaving.stop()
                    async for _ in leaving.events():
                        pass
            await until(5.5)
            events = list(staying.state.events._events)
            assert states(events) == ["node-2 alive", "node-2 left"]

    on_lan(main)


def test_who_raises_is_found_out_by_silence():
    async def main(lan: Lan) -> None:
        staying = lan.node(1, min_peers=2)
        async with staying:
            with pytest.raises(Oops):
                await raising(lan.node(2, min_peers=2), Oops(), 5.0)
            await until(5.4)
            assert states(list(staying.state.events._events)) == ["node-2 alive"]
            await until(12.5)
            assert states(list(staying.state.events._events)) == ["node-2 alive", "node-2 suspect", "node-2 dead"]

    on_lan(main)


def test_another_run_of_the_same_name_is_refused():
    async def main(lan: Lan) -> None:
        async with lan.node(1) as first:
            await until(3.0)
            second = lan.node(2, run=RunConfig(horizon_rounds=3))
            with pytest.raises(Refused, match="setting horizon: swarm has 8, you have 3") as caught:
                await life(second)
            assert caught.value.exit_status == 5
            assert second.done is None
            await until(8.0)
            warned = [e for e in first.state.events._events if isinstance(e, WarningEvent)]
            assert [w.code for w in warned] in ([], ["other-run"])
            assert first.state.role == "trains"

    on_lan(main)


def test_swarms_of_other_names_do_not_meet():
    async def main(lan: Lan) -> None:
        one = lan.node(1, until_rounds=2)
        other = lan.node(2, until_rounds=2, run=RunConfig(swarm="another"))
        for events in await together(one, other):
            assert states(events) == []
            assert isinstance(events[-1], Done)
            assert events[-1].bytes_sent == 0

    on_lan(main)


def test_a_node_named_by_the_user_is_found_without_discovery():
    async def main(lan: Lan) -> None:
        one = lan.node(1, min_peers=2, until_rounds=3)
        lan.registry = Registry()
        other = lan.node(2, min_peers=2, until_rounds=3, peers=(Network.address(1),))
        await together(one, other)
        assert one.done is not None
        assert other.done is not None
        assert one.done.model_sha256 == other.done.model_sha256

    on_lan(main)


@pytest.mark.parametrize(("config", "accuracy"), [({"until_rounds": 2}, 0.5), ({"timeout_s": 3.0}, 0.5)])
def test_the_final_model_is_measured_in_the_end(config, accuracy):
    class Judged(LightLearner):
        def evaluate(self, model: Vector) -> Evaluation | None:
            assert model.tobytes() == node.model().tobytes()
            return Evaluation.of({"25%": 0.25, "50%": accuracy, "100%": accuracy})

    async def main(lan: Lan) -> None:
        nonlocal node
        node = lan.node(1, Judged(1, blueprint=BLUEPRINT), evaluate_every_rounds=10**6, **config)
        events = await life(node)
        assert {report.accuracy for report in reports(events)} == {None}
        assert node.done is not None
        assert node.done.accuracy == accuracy
        assert (node.done.served, node.done.widths) == ("50%", {"25%": 0.25, "50%": accuracy, "100%": accuracy})

    node: Node
    on_lan(main)


def test_ones_own_end_is_ones_own_affair():
    async def main(lan: Lan) -> None:
        brief = lan.node(1, min_peers=2, until_rounds=3)
        long = lan.node(2, min_peers=2, until_rounds=9)
        await together(brief, long)
        assert brief.done is not None
        assert long.done is not None
        assert (brief.done.status, brief.done.round) == ("ok", 3)
        assert (long.done.status, long.done.round) == ("ok", 9)
        brief_tip = brief.state.ledger.tip
        assert long.state.ledger.link_at(3) == brief_tip

    on_lan(main)


def test_the_first_to_reach_the_accuracy_ends_the_run_for_all():
    class Judged(LightLearner):
        """Accuracy rises with every sealed model it is asked about."""

        asked = 0

        def evaluate(self, model: Vector) -> Evaluation | None:
            self.asked += 1
            return Evaluation.of({"half": min(1.0, self.asked / 20), "whole": min(1.0, self.asked / 10)})

    async def main(lan: Lan) -> None:
        one = lan.node(1, Judged(1, blueprint=BLUEPRINT), min_peers=2, until_accuracy=0.5)
        other = lan.node(2, min_peers=2)
        await together(one, other)
        assert one.done is not None
        assert other.done is not None
        assert (one.done.status, other.done.status) == ("ok", "ok")
        assert one.done.round == other.done.round == one.state.stop_round == other.state.stop_round
        assert one.done.model_sha256 == other.done.model_sha256
        assert one.done.accuracy is not None
        assert one.done.accuracy >= 0.5
        told = [event for event in one.state.events._events if isinstance(event, RoundReport)]
        assert told[0].widths == {}
        assert told[-1].widths["whole"] == told[-1].accuracy == 2 * told[-1].widths["half"]
        assert (other.done.served, other.done.widths) == (None, {})

    on_lan(main)


def test_a_silent_peer_does_not_hold_the_other_up_for_ever():
    async def main(lan: Lan) -> None:
        staying = lan.node(1, min_peers=2, until_rounds=30)
        async with asyncio.TaskGroup() as group:
            surviving = group.create_task(life(staying))
            dying = group.create_task(life(lan.node(2, min_peers=2, until_rounds=30)))
            await until(3.0)
            lan.network.crash(2)
            dying.cancel()
        assert isinstance(surviving.result()[-1], Done)
        assert staying.done is not None
        assert (staying.done.status, staying.done.round) == ("ok", 30)

    on_lan(main)


def test_nobody_publishes_further_ahead_than_others_would_keep():
    """The other one hangs but is not dead yet: without a limit a fast node would run hundreds of rounds ahead."""

    async def main(lan: Lan) -> None:
        node = lan.node(1, LightLearner(1, blueprint=BLUEPRINT, cost_s=0.005), cadence=replace(FAST, quorum=0.0))
        async with node, lan.node(2):
            await until(3.0)
            lan.network.crash(2)
            for at_s in range(31, 120):
                await until(at_s / 10)
                ledger = node.state.ledger
                assert ledger.newest <= ledger.tip.round + 64
                mine = [e for e in ledger.entries.values() if e.manifest.peer == node.state.me]
                assert all(ledger.counts(e.id, e.manifest.round) for e in mine)
            assert node.state.ledger.tip.round > 100

    on_lan(main)


def test_a_reply_that_is_no_protocol_harms_nobody():
    async def main(lan: Lan) -> None:
        stranger = SimTransport(lan.network, 9)

        async def nonsense(_: object) -> Reply:
            return Reply(200, b"<html>")

        (address,) = await stranger.serve(nonsense)
        events = await life(lan.node(1, until_rounds=3, peers=(address,)))
        assert isinstance(events[-1], Done)
        assert events[-1].status == "ok"
        await stranger.close()

    on_lan(main)


def test_a_validation_that_fails_in_the_end_fails_the_node():
    class Bad(LightLearner):
        def evaluate(self, model: Vector) -> Evaluation | None:
            raise TrainingError("validation: there is no data")

    async def main(lan: Lan) -> None:
        node = lan.node(1, Bad(1, blueprint=BLUEPRINT), until_rounds=2)
        with pytest.raises(TrainingError, match="there is no data"):
            await life(node)
        assert node.done is not None
        assert node.done.status == "failed"

    on_lan(main)


def test_to_end_at_an_accuracy_needs_validation_data():
    async def main(lan: Lan) -> None:
        with pytest.raises(TaskError, match="validation"):
            await life(lan.node(1, until_accuracy=0.9))

    on_lan(main)


def test_who_would_end_before_the_swarm_is_now_is_told_so():
    async def main(lan: Lan) -> None:
        first = lan.node(1)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(life(first))
            await until(6.0)
            assert first.state.ledger.tip.round > 5
            with pytest.raises(UsageError, match="choose a later --until rounds=N than 5"):
                await life(lan.node(2, until_rounds=5))
            first.stop()
            await running

    on_lan(main)


def test_an_interrupted_newcomer_leaves_the_saved_model_alone():
    async def main(lan: Lan) -> None:
        store = MemoryStore()
        node = lan.node(1, min_peers=2, store=store)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(life(node))
            await until(1.0)
            node.stop()
            await running
        assert store.load_checkpoint(node.state.run_id) is None

    on_lan(main)


def test_who_comes_late_does_not_hold_up_one_who_trained_alone():
    """Alone a node learns no patience: it must not spend ten seconds on work that can only come in a later round."""

    async def main(lan: Lan) -> None:
        first, second = lan.node(1), lan.node(2)
        events: list[Event] = []
        async with asyncio.TaskGroup() as group:
            running = group.create_task(life(first, events))
            await until(5.0)
            other = group.create_task(life(second))
            await until(9.0)
            for node in (first, second):
                node.stop()
            await running
            await other
        assert max(report.seconds["wait"] for report in reports(events)) < 2.0
        assert reports(events)[-1].heard == 2

    on_lan(main)
