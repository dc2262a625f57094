"""Multicast DNS on loopback only: what is found, what is ignored, what is bounded. No packet leaves the computer."""

import asyncio
import contextlib
import gc
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from zeroconf import DNSOutgoing, DNSPointer
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from p2pfusion.errors import LocalError, PortError
from p2pfusion.net import mdns
from p2pfusion.net.mdns import CANDIDATES_MAX, SERVICE, MdnsDiscovery

pytestmark = pytest.mark.asyncio

TAG = secrets.token_hex(8)  # test processes side by side share the loopback multicast group
LOOPBACK = ["127.0.0.1"]


@contextlib.asynccontextmanager
async def discoveries(count: int) -> AsyncIterator[list[MdnsDiscovery]]:
    before = asyncio.all_tasks()
    opened = [MdnsDiscovery(LOOPBACK) for _ in range(count)]
    try:
        yield opened
    finally:
        for discovery in opened:
            await discovery.close()
            await discovery.close()
        assert asyncio.all_tasks() == before
        gc.collect()


@contextlib.asynccontextmanager
async def stranger(name: str, properties: dict[str, Any], **values: Any) -> AsyncIterator[AsyncZeroconf]:
    """Somebody else who announces a service of our type."""
    zeroconf = AsyncZeroconf(interfaces=LOOPBACK)
    values = {"port": 6000, "parsed_addresses": ["127.0.0.1"], **values}
    info = AsyncServiceInfo(SERVICE, f"{name}.{SERVICE}", server=f"{name}.local.", properties=properties, **values)
    try:
        await (await zeroconf.async_register_service(info, cooperating_responders=True))
        yield zeroconf
    finally:
        await zeroconf.async_close()


async def take(discovery: MdnsDiscovery, count: int, tag: str = TAG, within_s: float = 5.0) -> list[Sequence[str]]:
    """The first `count` answers, sorted."""
    taken: list[Sequence[str]] = []
    async with asyncio.timeout(within_s), contextlib.aclosing(discovery.found(tag)) as found:
        async for addresses in found:
            taken.append(addresses)
            if len(taken) == count:
                break
    return sorted(taken)


async def test_nodes_of_one_tag_find_each_other_and_not_themselves() -> None:
    async with discoveries(4) as (first, second, third, other):
        for port, discovery in ((5001, first), (5002, second), (5003, third)):
            await discovery.announce(TAG, [f"127.0.0.1:{port}"])
        await other.announce("f" * 16, ["127.0.0.1:5004"])
        assert await take(first, 2) == [("127.0.0.1:5002",), ("127.0.0.1:5003",)]
        assert await take(third, 2) == [("127.0.0.1:5001",), ("127.0.0.1:5002",)]
        assert await take(other, 3, TAG) == [("127.0.0.1:5001",), ("127.0.0.1:5002",), ("127.0.0.1:5003",)]
        with pytest.raises(TimeoutError):
            await take(second, 3, within_s=0.5)


async def test_a_service_that_changes_or_comes_back_is_yielded_again() -> None:
    async with discoveries(3) as (watching, moving, back), asyncio.timeout(10):
        found = watching.found(TAG)
        await moving.announce(TAG, ["127.0.0.1:5001"])
        assert await anext(found) == ("127.0.0.1:5001",)
        await moving.announce(TAG, ["127.0.0.1:5002"])
        while await anext(found) != ("127.0.0.1:5002",):  # the change arrives record by record
            pass
        await moving.close()
        await back.announce(TAG, ["127.0.0.1:5002"])
        assert await anext(found) == ("127.0.0.1:5002",)


async def test_what_is_announced_names_neither_host_nor_user() -> None:
    async with discoveries(1) as (discovery,):
        await discovery.announce(TAG, ["127.0.0.1:5001"])
        info = discovery._service
        assert info is not None
        assert info.decoded_properties == {"v": "1", "run": TAG, "port": "5001"}
        label = info.name.removesuffix(f".{SERVICE}")
        assert len(label) == 32
        assert info.server == f"{label}.local."
        assert socket.gethostname() not in str(info)


@pytest.mark.parametrize(
    ("properties", "values"),
    [
        ({"v": "2", "run": TAG}, {}),
        ({"v": "1"}, {}),
        ({"v": "1", "run": TAG[:8]}, {}),
        ({"v": "1", "run": TAG}, {"port": 80}),
        ({"v": "1", "run": TAG}, {"parsed_addresses": ["169.254.169.254", "0.0.0.0", "224.0.0.1"]}),
    ],
)
async def test_strange_services_are_ignored(properties: dict[str, Any], values: dict[str, Any]) -> None:
    async with discoveries(2) as (watching, good), stranger("stranger", properties, **values):
        await good.announce(TAG, ["127.0.0.1:5001"])
        assert await take(watching, 1) == [("127.0.0.1:5001",)]
        with pytest.raises(TimeoutError):
            await take(watching, 2, within_s=0.3)


async def test_addresses_of_a_service_are_bounded() -> None:
    many = [f"127.0.0.{n}" for n in range(1, 20)]
    async with discoveries(1) as (watching,), stranger("stranger", {"v": "1", "run": TAG}, parsed_addresses=many):
        ((*addresses,),) = await take(watching, 1)
        assert len(addresses) == 4


async def test_a_service_known_by_name_only_is_asked_for() -> None:
    async with discoveries(1) as (watching,), contextlib.aclosing(watching.found(TAG)) as found:
        waiting = asyncio.ensure_future(anext(found))
        await asyncio.sleep(0.3)  # the browser's own first question is out
        zeroconf = AsyncZeroconf(interfaces=LOOPBACK)
        name = f"quiet.{SERVICE}"
        info = AsyncServiceInfo(
            SERVICE, name, port=6000, server="quiet.local.", properties={"v": "1", "run": TAG},
            parsed_addresses=["127.0.0.1"],
        )  # fmt: skip
        await zeroconf.zeroconf.async_wait_for_start()
        zeroconf.zeroconf.registry.async_add(info)  # answers questions, announces nothing
        zeroconf.zeroconf.async_send(pointers([name]))
        async with asyncio.timeout(5):
            assert await waiting == ("127.0.0.1:6000",)
        await zeroconf.async_close()


def pointers(names: Sequence[str]) -> DNSOutgoing:
    """A packet, or several, that says only that these services exist."""
    out = DNSOutgoing(0x8400)  # an authoritative answer
    for name in names:
        out.add_answer_at_time(DNSPointer(SERVICE, 12, 1, 4500, name), 0)
    return out


async def test_a_flood_of_names_is_bounded_and_a_real_node_is_found_through_it() -> None:
    async with discoveries(2) as (watching, good), contextlib.aclosing(watching.found(TAG)) as found:
        waiting = asyncio.ensure_future(anext(found))
        await asyncio.sleep(0.1)
        (browse,) = watching._browses.values()
        async with stranger("flood", {"v": "1", "run": "0" * 16}) as zeroconf:
            for start in range(0, 600, 50):
                names = [f"{n:032x}.{SERVICE}" for n in range(start, start + 50)]
                zeroconf.zeroconf.async_send(pointers(names))
                await asyncio.sleep(0.01)
            await good.announce(TAG, ["127.0.0.1:5001"])
            async with asyncio.timeout(3):
                assert await waiting == ("127.0.0.1:5001",)
        assert len(browse.candidates._items) <= CANDIDATES_MAX
        assert browse.candidates.dropped >= 600 - CANDIDATES_MAX - 3 * mdns.RESOLVERS


async def test_the_mailbox_holds_its_limit_and_counts_the_rest() -> None:
    box: mdns._Mailbox[int] = mdns._Mailbox()
    for item in [*range(CANDIDATES_MAX), 0, 1]:
        box.put(item)
    assert box.dropped == 0
    box.put(CANDIDATES_MAX)
    assert box.dropped == 1
    assert [await box.get() for _ in range(CANDIDATES_MAX)] == list(range(CANDIDATES_MAX))
    waiting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    box.close()
    assert await waiting is None


async def test_close_ends_the_search_and_refuses_more() -> None:
    async with discoveries(1) as (discovery,):
        found = discovery.found(TAG)
        waiting = asyncio.ensure_future(anext(found, "ended"))
        await asyncio.sleep(0.1)
        await discovery.close()
        assert await waiting == "ended"
        with pytest.raises(LocalError, match="closed"):
            await discovery.announce(TAG, ["127.0.0.1:5001"])


async def test_without_a_usable_interface_the_fix_is_told() -> None:
    discovery = MdnsDiscovery(["198.51.100.7"])
    with pytest.raises(
        PortError, match=r"cannot use mDNS .*: no interface has the address 198.51.100.7; .*--peer HOST:PORT"
    ):
        await discovery.announce(TAG, ["127.0.0.1:5001"])
    with pytest.raises(PortError, match="--peer"):
        await anext(discovery.found(TAG))
    await discovery.close()


@pytest.mark.parametrize("error", [OSError(19, "No such device"), RuntimeError("No interfaces to listen on")])
async def test_a_network_without_multicast_is_told_with_the_fix(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise error

    monkeypatch.setattr(mdns, "AsyncZeroconf", broken)
    discovery = MdnsDiscovery()
    with pytest.raises(PortError, match=r"cannot use mDNS on this network: .*No .*; name another node with --peer"):
        await discovery.announce(TAG, ["127.0.0.1:5001"])
    await discovery.close()


async def test_one_service_has_one_port() -> None:
    discovery = MdnsDiscovery(LOOPBACK)
    for addresses in ([], ["127.0.0.1:5001", "127.0.0.1:5002"]):
        with pytest.raises(LocalError, match="one port"):
            await discovery.announce(TAG, addresses)
