"""Membership among nodes that talk and probe over the simulated network: who is found dead, when, and who is not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from statistics import median
from types import SimpleNamespace

import pytest

from p2pfusion.config import GossipConfig
from p2pfusion.node import probing
from p2pfusion.node.probing import NACK_SHARE, PROBES_SERVED_MAX, TICK_S, Probing, ping
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network
from p2pfusion.wire.codec import encode_probe
from tests.node.parts import Parts, Wire, parts, until
from tests.node.village import LAN, LOSSY, Door, Village, identity, pause, settled
from tests.swarm.made import peer, report

LIFE = 1 << 20
GOSSIP = GossipConfig()


def now_s() -> float:
    return asyncio.get_running_loop().time()


# -- crashes ----------------------------------------------------------------------------------------------------------


def deaths_s(link: LinkModel, seed: int, nodes: int = 16) -> list[float]:
    """How long after a crash each of the others knew; nobody else may die."""

    async def main() -> list[float]:
        async with Village(link, seed) as village:
            await settled(village, nodes)
            crashed_s, victim = now_s(), village.crash(5)
            await pause(20.0)
            assert {event.about for event in village.became("dead")} == {victim}
            return [event.at_s - crashed_s for event in village.became("dead", victim)]

    return run(main)


@pytest.mark.parametrize("link", [LAN, LOSSY], ids=["calm", "10 % loss"])
def test_a_crash_is_known_to_all_within_the_timetable(link):
    """A probe finds it within a period or two, then it has 1.5 to 4 s, then the news spreads."""
    all_s = [deaths_s(link, seed) for seed in range(1, 7)]
    assert all(len(each) == 15 for each in all_s), "everybody, once"
    first_s, last_s = [min(each) for each in all_s], [max(each) for each in all_s]
    assert min(first_s) >= GOSSIP.probe_interval_s + GOSSIP.suspicion_min_s - TICK_S
    assert median(last_s) <= GOSSIP.probe_interval_s * 2 + GOSSIP.suspicion_max_s
    assert max(last_s) <= 10.0


def test_confirmations_make_death_faster(monkeypatch):
    """The same crashes with many who confirm, with accusers who are not counted, and among two."""
    slowest_s = GOSSIP.probe_interval_s + GOSSIP.suspicion_max_s
    assert median(min(deaths_s(LAN, seed)) for seed in range(1, 6)) < slowest_s

    async def two() -> float:
        async with Village() as village:
            await settled(village, 2)
            crashed_s = now_s()
            village.crash(2)
            await pause(12.0)
            (death,) = village.became("dead")
            return death.at_s - crashed_s

    assert run(two) >= slowest_s
    monkeypatch.setattr("p2pfusion.swarm.suspicion.Suspicion.confirm", lambda self, accuser: False)
    assert min(deaths_s(LAN, 5)) >= slowest_s


# -- nobody dies who lives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "seed"), [(0.0, 1), (0.1, 1), (0.1, 2), (0.1, 3), (0.3, 1)])
def test_loss_kills_nobody(loss, seed):
    async def main() -> int:
        async with Village(LinkModel(latency_s=0.005, jitter_s=0.005, loss=loss), seed) as village:
            await settled(village, 16)
            await pause(60.0)
            assert village.all_know_all()
            return len(village.became("dead"))

    assert run(main) == 0


def test_a_broken_link_accuses_nobody():
    """Two that do not reach each other are told by the others that all is well."""

    async def main() -> None:
        async with Village() as village:
            await settled(village, 6)
            village.network.sever(2, 5)
            await pause(60.0)
            assert village.became("suspect") == village.became("dead") == []
            assert max(node.state.prober.awareness for _, node in village.everybody()) == 0

    run(main)


def test_when_nothing_happens_little_is_said():
    async def main() -> float:
        async with Village() as village:
            await settled(village, 8)
            await pause(10.0)
            for villager in village.living.values():
                villager.door.calls.clear()
            await pause(40.0)
            return sum(len(villager.door.calls) for villager in village.living.values()) / 8 / 40.0

    assert run(main) <= 2.0, "a ping a second, a word now and then"


class Slow:
    """Makes one node's loop stand still most of the time: it does anything only every two seconds."""

    def __init__(self, one: Parts, door: Door, every_s: float) -> None:
        self._every_s = every_s
        handle, call = one.serving.handle, door.transport.call
        door.transport._host.handler = self._late(handle)  # type: ignore[assignment]
        door.transport.call = self._late(call)  # type: ignore[method-assign]

    def _late(self, function):  # type: ignore[no-untyped-def]
        async def later(*given: object, **named: object) -> object:
            named = {key: 2 * self._every_s if key == "deadline_s" else value for key, value in named.items()}
            reply = await function(*given, **named)
            moment_s = (now_s() // self._every_s + 1) * self._every_s
            await until(moment_s)
            return reply

        return later


def observed_slowly(monkeypatch: pytest.MonkeyPatch, gossip: GossipConfig) -> tuple[int, int, int]:
    """Suspicions and deaths of the seven others, as seen by all, and the slow node's awareness; 90 s."""

    async def main() -> tuple[int, int, int]:
        async with Village(gossip=gossip) as village:
            await settled(village, 8)
            slow = village.living[4]
            Slow(slow.node, slow.door, 2.0)

            async def sleep(delay_s: float) -> None:
                await pause(delay_s)
                if asyncio.current_task() is slow.probing:
                    await until((now_s() // 2.0 + 1) * 2.0)

            with monkeypatch.context() as patch:
                patch.setattr(probing, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
                await pause(90.0)
            wrong = [event for event in village.history if event.about != slow.node.me]
            kinds = [event.status for event in wrong]
            return kinds.count("suspect"), kinds.count("dead"), slow.node.state.prober.awareness

    return run(main)


def test_a_slow_observer_evicts_nobody(monkeypatch):
    """A node that does anything only every 2 s hears every answer too late: it learns to wait, and kills nobody."""
    suspicions, deaths, awareness = observed_slowly(monkeypatch, GossipConfig())
    assert (suspicions, deaths) == (0, 0)
    assert awareness > 0


def test_who_slept_suspects_nobody_at_once():
    """The loop stood still for longer than the suspicion time: on waking every clock starts anew."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            one = parts()
            one.state.membership.observe(report(2, addresses=("b",)), 0.0)
            one.state.membership.observe(report(3, addresses=("c",)), 0.0)
            task = group.create_task(Probing(one.state, one.calls, group).run())
            await until(2.5)
            (accused,) = [p.id for p in one.state.membership.view(0.0).peers if p.status == "suspect"]
            asyncio.get_running_loop()._now_s += 100.0  # type: ignore[attr-defined]
            woke_s = now_s()
            await until(woke_s + 3.7)
            assert accused in one.state.membership.live()
            assert one.state.prober.awareness >= 1
            await until(woke_s + 4.6)
            assert accused not in one.state.membership.live()
            task.cancel()

    run(main)


# -- contradiction and return -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["suspect", "dead"])
def test_who_is_accused_wrongly_contradicts_and_all_believe_it(status):
    async def main() -> None:
        async with Village() as village:
            await settled(village, 8)
            accuser, accused = village.living[2].node, village.living[7].node
            state = accuser.state
            state.tell(state.membership.accuse(accused.me, now_s() - (4.0 if status == "dead" else 0.0)))
            state.tell(state.membership.tick(now_s()))
            assert (accused.me in state.membership.live()) == (status == "suspect")
            await pause(3.0)
            assert village.all_know_all()
            assert accused.state.incarnation == LIFE + 1
            for _, node in village.everybody():
                known = node.state.membership.report_of(accused.me)
                assert known is None or known.incarnation == LIFE + 1
            assert {e.who for e in village.became("dead")} <= {2}, "nobody believed it"

    run(main)


@pytest.mark.parametrize("is_heeded", [True, False])
def test_what_the_others_relay_of_a_contradiction_saves_the_accused(is_heeded, monkeypatch):
    """The accuser cannot hear the accused itself. Without the contradiction it would be dead to the accuser."""
    if not is_heeded:
        monkeypatch.setattr("p2pfusion.node.state.State.refute", lambda self, rumour: None)

    async def main() -> bool:
        async with Village() as village:
            await settled(village, 8)
            village.network.sever(2, 7)
            state = village.living[2].node.state
            state.tell(state.membership.accuse(identity(7), now_s()))
            await pause(6.0)
            return any(event.who == 2 for event in village.became("dead", identity(7)))

    assert run(main) is not is_heeded


@pytest.mark.parametrize("away_s", [0.5, 3.0, 20.0])
def test_who_returns_with_its_disk_is_the_same_peer(away_s):
    async def main() -> None:
        async with Village(LOSSY) as village:
            await settled(village, 8)
            victim = village.crash(6)
            await pause(away_s)
            await village.start(6, incarnation=2 * LIFE)
            await pause(6.0)
            assert village.all_know_all()
            for host, node in village.everybody():
                known = node.state.membership.report_of(victim)
                assert host == 6 or (known is not None and known.incarnation >= 2 * LIFE)

    run(main)


def test_who_lost_its_disk_is_a_new_peer_and_the_old_one_is_dead_at_once():
    """Its address answers under another id: nobody waits for the suspicion time."""

    async def main() -> list[float]:
        async with Village() as village:
            await settled(village, 8)
            victim = village.crash(6)
            await pause(0.3)
            back_s = now_s()
            await village.start(6, identity=60)
            await pause(4.0)
            assert village.all_know_all()
            assert {event.about for event in village.became("dead")} == {victim}
            return [event.at_s - back_s for event in village.became("dead", victim) if event.who != 6]

    took_s = run(main)
    assert len(took_s) == 7
    assert min(took_s) <= 0.5
    assert max(took_s) <= GOSSIP.suspicion_min_s + 1.0


def test_one_that_only_says_it_lives_there_displaces_nobody():
    """A claim is seen to by a call to that address, and there the old one answers."""

    async def main() -> None:
        async with Village() as village:
            await settled(village, 4)
            liar = await village.start(9)
            liar.state.addresses = (Network.address(3),)
            await pause(6.0)
            assert village.became("dead", identity(3)) == []

    run(main)


def test_a_departure_is_known_at_once():
    async def main() -> None:
        async with Village() as village:
            await settled(village, 8)
            leaving = village.living[3]
            request = leaving.node.gossiping.farewell()
            leaving.life.cancel()
            for host in (1, 2):
                await leaving.door.call(Network.address(host), request, deadline_s=1.0)
            await pause(2.0)
            assert len(village.became("left", leaving.node.me)) == 7
            await pause(10.0)
            assert village.became("dead") == []

    run(main)


# -- partitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "nodes", "seed"), [(4, 8, 1), (4, 8, 2), (1, 8, 1), (8, 16, 1), (1, 2, 1)])
def test_a_healed_partition_finds_itself(side, nodes, seed):
    """After a minute apart: everybody knows everybody again soon, and nobody dies of old news."""

    async def main() -> tuple[float, int]:
        async with Village(LAN, seed) as village:
            await settled(village, nodes)
            village.network.blocked = lambda one, other: (one <= side) != (other <= side)
            await pause(60.0)
            if side > 1:  # one alone doubts its own ears, and takes its time
                assert len(village.became("dead")) == 2 * side * (nodes - side)
            assert {e.about for e in village.became("dead") if e.who > side} == {*map(identity, range(1, side + 1))}
            village.network.blocked = lambda one, other: False
            village.history.clear()
            healed_s = now_s()
            while not village.all_know_all():
                await pause(0.1)
            took_s = now_s() - healed_s
            await pause(20.0)
            assert village.all_know_all()
            return took_s, len(village.became("dead"))

    took_s, dead = run(main)
    assert took_s <= 8.0
    assert dead == 0


def test_a_one_way_partition_kills_nobody_who_is_heard():
    """Host 5 hears nobody, but everybody hears it: its word is proof of life."""

    async def main() -> None:
        async with Village() as village:
            await settled(village, 6)
            village.network.blocked = lambda source, target: target == 5 and source != 5
            await pause(30.0)
            others = [event for event in village.became("dead") if event.who != 5]
            assert {event.about for event in others} <= {identity(5)}

    run(main)


# -- probes for others ------------------------------------------------------------------------------------------------


def asked(one: Parts, target: bytes, run_id: bytes | None = None) -> Request:
    return Request("POST", "/v1/probe", encode_probe(run_id or one.state.run_id, target))


def test_a_probe_on_behalf_of_another():
    async def main() -> None:
        wire = Wire()
        helper, target, dead = parts(wire), parts(wire, 2), parts(wire, 3)
        helper.meet(target, dead)
        del wire.handlers[dead.address]
        assert await helper.serving.handle(asked(helper, target.me)) == Reply(204)
        assert await helper.serving.handle(asked(helper, dead.me)) == Reply(504, b"silent")
        pings = [replace(ping(one.me), sender=helper.me) for one in (target, dead)]
        assert wire.calls == [(target.address, pings[0]), (dead.address, pings[1])]

    run(main)


def test_nobody_makes_us_call_strangers():
    async def main() -> None:
        wire = Wire()
        helper, target = parts(wire), parts(wire, 2)
        for stranger in (target.me, helper.me, peer(99)):
            assert await helper.serving.handle(asked(helper, stranger)) == Reply(404, b"unknown")
        helper.meet(target)
        assert await helper.serving.handle(asked(helper, target.me, bytes(32))) == Reply(404, b"unknown")
        assert await helper.serving.handle(Request("POST", "/v1/probe", b"nonsense")) == Reply(400, b"malformed")
        assert wire.calls == []

    run(main)


def test_a_new_peer_does_not_answer_for_the_old_one_at_its_address():
    async def main() -> None:
        wire = Wire()
        helper, old, new = parts(wire), parts(wire, 2), parts(wire, 3)
        helper.meet(old)
        wire.handlers[old.address] = new.serving.handle
        assert await helper.serving.handle(asked(helper, old.me)) == Reply(504, b"silent")
        assert await new.serving.handle(ping(new.me)) == Reply(204)
        assert await new.serving.handle(ping(old.me)) == Reply(404, b"unknown")

    run(main)


def test_probes_served_max():
    """As many as there may be wait for silent members; one more is told to come later, and then there is room again."""

    async def main() -> None:
        class Silent(Wire):
            async def call(self, address, request, *, deadline_s, into=None):  # type: ignore[no-untyped-def]
                await until(now_s() + 3600.0)

        helper, target = parts(Silent()), parts(index=2)
        helper.meet(target)
        async with asyncio.TaskGroup() as group:
            served = [
                group.create_task(helper.serving.handle(asked(helper, target.me))) for _ in range(PROBES_SERVED_MAX)
            ]
            await until(0.1)
            assert await helper.serving.handle(asked(helper, target.me)) == Reply(503, b"busy")
        assert now_s() == pytest.approx(NACK_SHARE * GOSSIP.probe_timeout_s)
        assert all(task.result() == Reply(504, b"silent") for task in served)
        assert helper.serving._helping._serving == 0

    run(main)
