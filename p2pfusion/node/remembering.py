"""Who a node is when it starts: the same peer as before if its disk can vouch for that, else a new one.

The number of starts is on disk before anything is said, so an incarnation is never used twice (RELIABILITY.md M2). A
node whose disk does not know any more what it published last, or cannot count this start, is a new peer: a round that
is published to twice would be worse than a peer that is never seen again (PROTOCOL.md 2). Files are the store's affair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2pfusion.errors import StoreError
from p2pfusion.node.resuming import Examined, Unfit, examined
from p2pfusion.node.state import LIFE, State
from p2pfusion.seams import Identity


@dataclass(frozen=True, slots=True)
class Remembered:
    """A node's state under its right id; what its disk held of this run; the newest round it published to (0: none)."""

    state: State
    found: Examined | None
    last: int


async def remember(fresh: State, run_id: bytes) -> Remembered:
    """Read the disk, count this start, and be who that allows. `fresh` is the state of a new peer, nothing said yet."""
    trouble: list[str] = []

    def work() -> tuple[Identity, Examined | None]:
        found = _found(fresh, run_id, trouble)
        return _counted(fresh, run_id, found is not None, trouble), found

    identity, found = await fresh.doors.compute.run(work, lane="fold")
    state = fresh
    if identity.peer != fresh.me:
        state = State(fresh.config, fresh.algorithm, fresh.doors, replace(fresh.described, sender=identity.peer))
    state.incarnation = identity.incarnation
    for text in trouble[:1]:
        state.disk.failed("identity", text)
    return Remembered(state, found, identity.last)


def _found(fresh: State, run_id: bytes, trouble: list[str]) -> Examined | None:
    """The newest checkpoint of this run, if it holds what it says."""
    store = fresh.doors.store
    try:
        checkpoint = store.load_checkpoint(run_id)
        return None if checkpoint is None else examined(checkpoint, fresh.blueprint, fresh.config.run)
    except StoreError as error:
        trouble.append(f"{error}")
    except Unfit as error:
        trouble.append(f"the checkpoint in {store.place} cannot be used ({error}) and is not resumed")
    return None


def _counted(fresh: State, run_id: bytes, was_here: bool, trouble: list[str]) -> Identity:
    """The identity of this start, on disk. `was_here`: there is a checkpoint of this run."""
    store, identity = fresh.doors.store, Identity(peer=fresh.me, incarnation=LIFE, last=0, run_id=run_id)
    try:
        saved = store.load_identity()
        if saved is not None:
            is_known = saved.run_id == run_id or not was_here  # else who knows what was published after it
            identity = Identity(
                peer=saved.peer if is_known else fresh.me,
                incarnation=(saved.incarnation // LIFE + 1) * LIFE,
                last=saved.last if saved.run_id == run_id else 0,
                run_id=run_id,
            )
        store.save_identity(identity)
    except StoreError as error:
        trouble.append(f"{error}")
        return Identity(peer=fresh.me, incarnation=LIFE, last=0, run_id=run_id)
    return identity
