"""`seams.Discovery`: nodes of one tag find each other and nobody else; early or late does not matter."""

from __future__ import annotations

import asyncio

import pytest

from p2pfusion.errors import LocalError

TAG = "5a5a5a5a5a5a5a5a"
OTHER_TAG = "0123456789abcdef"


def place(i: int) -> str:
    return f"127.0.0.1:{40_000 + i}"


async def find(discovery, expected: set[str], tag: str = TAG) -> list[str]:
    """Browse until all expected addresses were found; all that was found until then."""
    found: list[str] = []
    search = discovery.found(tag)
    try:
        while not expected <= set(found):
            found.extend(await anext(search))
    finally:
        await search.aclose()
    return found


def test_nodes_of_one_tag_find_each_other_and_not_themselves(play_discovery):
    async def scenario(new):
        nodes = [new() for _ in range(3)]
        for i, node in enumerate(nodes):
            await node.announce(TAG, [place(i)])
        everybody = {place(i) for i in range(3)}
        async with asyncio.TaskGroup() as group:
            for i, node in enumerate(nodes):
                group.create_task(only(node, everybody - {place(i)}))

    async def only(node, expected):
        assert set(await find(node, expected)) == expected

    play_discovery(scenario)


def test_another_tag_is_another_swarm(play_discovery):
    async def scenario(new):
        stranger, friend, seeker = new(), new(), new()
        await stranger.announce(OTHER_TAG, [place(10)])
        await friend.announce(TAG, [place(11)])
        assert await find(seeker, {place(11)}) == [place(11)]
        assert await find(seeker, {place(10)}, OTHER_TAG) == [place(10)]

    play_discovery(scenario)


def test_a_late_one_is_found_and_a_late_seeker_finds(play_discovery):
    async def scenario(new):
        early, seeker, late = new(), new(), new()
        await early.announce(TAG, [place(20)])
        await seeker.announce(TAG, [place(21)])
        search = seeker.found(TAG)
        assert tuple(await anext(search)) == (place(20),)
        await late.announce(TAG, [place(22)])
        while tuple(await anext(search)) != (place(22),):
            pass
        await search.aclose()
        assert set(await find(late, {place(20), place(21)})) == {place(20), place(21)}

    play_discovery(scenario)


def test_close_is_harmless_twice_ends_searches_and_is_final(play_discovery):
    async def scenario(new):
        node, unused = new(), new()
        await node.announce(TAG, [place(30)])

        async def search() -> None:
            async for _ in node.found(OTHER_TAG):
                pytest.fail("nobody has that tag")

        async with asyncio.TaskGroup() as group:
            group.create_task(search())
            await find(unused, {place(30)})
            await node.close()
        for discovery in (node, unused):
            await discovery.close()
            await discovery.close()
            with pytest.raises(LocalError):
                await discovery.announce(TAG, [place(31)])

    play_discovery(scenario)
