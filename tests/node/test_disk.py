"""One warning per episode of trouble with the store, whatever fails how often."""

from __future__ import annotations

import pytest

from p2pfusion.errors import StoreError
from p2pfusion.node.disk import Disk
from p2pfusion.seams import Checkpoint, Identity
from p2pfusion.sim.doors import SimCompute
from p2pfusion.sim.loop import run
from p2pfusion.store.memory import MemoryStore

ME = Identity(peer=b"p" * 16, incarnation=1 << 20, last=3, run_id=b"r" * 32)
CHECKPOINT = Checkpoint(run_id=b"r" * 32, round=1, chain=b"c" * 32, weight=1, model={})


class Failing(MemoryStore):
    """Refuses to write these kinds of files, and to forget when it is read-only."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()

    def _check(self, kind: str) -> None:
        if kind in self.fails:
            raise StoreError(f"no room for the {kind}")

    def save_identity(self, identity: Identity) -> None:
        self._check("identity")
        super().save_identity(identity)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._check("checkpoint")
        super().save_checkpoint(checkpoint)

    def forget_identity(self) -> None:
        self._check("forgetting")
        super().forget_identity()


def disk() -> tuple[Disk, Failing, list[tuple[str, str]]]:
    store, told = Failing(), []
    return Disk(store, SimCompute(), lambda code, text: told.append((code, text))), store, told


def test_an_episode_is_told_when_it_begins_and_when_a_checkpoint_was_written_and_nothing_fails():
    async def main() -> None:
        one, store, told = disk()
        for _ in range(2):
            store.fails = {"checkpoint"}
            for _ in range(3):
                assert await one.save_identity(ME)
                assert not await one.save_checkpoint(lambda: CHECKPOINT)
            store.fails = {"checkpoint", "identity"}
            assert not await one.save_identity(ME)
            store.fails = set()
            assert await one.save_checkpoint(lambda: CHECKPOINT)
            assert one.is_in_trouble, "the identity is still to be written"
            assert await one.save_identity(ME)
            assert await one.save_checkpoint(lambda: CHECKPOINT)
            assert not one.is_in_trouble
        assert [code for code, _ in told] == ["store", "store-recovered"] * 2
        assert told[0][1] == "no room for the checkpoint; training goes on in memory"
        assert told[1][1].startswith("memory can be written again")

    run(main)


def test_an_identity_that_fits_now_and_then_is_no_recovery():
    """On a full disk each identity that is forgotten makes room for the next one."""

    async def main() -> None:
        one, store, told = disk()
        for _ in range(5):
            store.fails = {"checkpoint", "identity"}
            assert not await one.save_identity(ME)
            store.fails = {"checkpoint"}
            assert await one.save_identity(ME)
        assert [code for code, _ in told] == ["store"]

    run(main)


@pytest.mark.parametrize("is_read_only", [False, True])
def test_an_identity_that_cannot_be_renewed_is_not_left_behind(is_read_only):
    async def main() -> None:
        one, store, told = disk()
        await one.save_identity(ME)
        store.fails = {"identity", "forgetting"} if is_read_only else {"identity"}
        assert not await one.save_identity(ME)
        assert store.load_identity() == (ME if is_read_only else None)
        assert len(told) == 1

    run(main)


def test_what_goes_wrong_while_a_checkpoint_is_made_is_a_bug_and_not_the_disks():
    async def main() -> None:
        one, _, told = disk()

        def make() -> Checkpoint:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await one.save_checkpoint(make)
        assert told == []

    run(main)
