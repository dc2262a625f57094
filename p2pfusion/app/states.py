"""Where nodes keep their state: `<state folder of the platform>/<swarm>/<node>`, which of those a command means, and
what a person is told of one that was not empty.

Names come from people and must not leave the folder, so they are quoted. A default name is the first friendly one whose
folder no running process holds. What is inside a folder is `store`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

from platformdirs import user_state_path

from p2pfusion.app.values import Until
from p2pfusion.errors import StoreError
from p2pfusion.store.failing import store_error
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.keeping import FOREIGN_RUNS_KEPT
from p2pfusion.store.locking import holding
from p2pfusion.store.shards import all_shards, is_shard

NAMES = (
    "fox", "otter", "wren", "heron", "lynx", "badger", "swift", "hare", "newt", "robin", "seal", "owl",
    "marten", "finch", "toad", "stork", "vole", "crane", "beaver", "magpie", "stoat", "plover", "mole", "ibis",
)  # fmt: skip
NAME_ROUNDS_MAX = 10
"""fox ... ibis, fox-2 ... ibis-10: more nodes on one computer than it could train."""
_CHECKPOINTS = "checkpoint-*.safetensors"
_CLAIM = "name.lock"


def friendly_names() -> Iterator[str]:
    """`fox`, `otter`, ..., then `fox-2`, `otter-2`, ...; bounded."""
    for number in range(1, NAME_ROUNDS_MAX + 1):
        for name in NAMES:
            yield name if number == 1 else f"{name}-{number}"


def state_root() -> Path:
    """The platform's folder for what this program must remember."""
    return user_state_path("p2pfusion", appauthor=False)


def _quoted(name: str) -> str:
    # quote() leaves dots alone, and ".." would be a way out.
    return quote(name, safe=" ").replace(".", "%2E")


def swarm_folder(swarm: str) -> Path:
    """Where the default folders of a swarm's nodes are."""
    return state_root() / _quoted(swarm)


def folder_of(swarm: str, name: str) -> Path:
    """The default folder of a node of a swarm."""
    return swarm_folder(swarm) / _quoted(name)


@contextmanager
def chosen(swarm: str, name: str | None, folder: Path | None) -> Iterator[tuple[str, Path]]:
    """The node's name and folder, from what the user gave of them. Raises `StoreError` if no folder can be used.

    A default name is this node's while the block runs: of two that start at once each would find the folder free.
    """
    if name is not None:
        yield name, folder or folder_of(swarm, name)
    elif folder is not None:
        # The same name every time, and as a rule another one for another folder.
        yield NAMES[crc32(str(folder.resolve()).encode()) % len(NAMES)], folder
    else:
        with ExitStack() as claim:
            yield _claimed(swarm, claim)


def _claimed(swarm: str, claim: ExitStack) -> tuple[str, Path]:
    """The first friendly name that nobody has. A node's folder is looked into only by who has claimed its name."""
    problem: StoreError | None = None
    for candidate in friendly_names():
        folder = folder_of(swarm, candidate)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            claim.enter_context(holding(folder / _CLAIM))
            FolderStore(folder).close()
        except (OSError, StoreError) as error:
            # As a rule another node of this computer holds it; what else is wrong is wrong with all of them.
            claim.close()
            problem = error if isinstance(error, StoreError) else store_error("open", folder, error)
            continue
        return candidate, folder
    raise StoreError(f"no built-in name is free: {problem}") from problem


def forget(folder: Path) -> None:
    """Delete what a node saved here, for `--fresh`, and nothing else: somebody will say `--state ~`.

    Raises `StoreError`, also if a running process holds the folder.
    """
    if not folder.exists():
        return
    with FolderStore(folder):
        try:
            for place in (folder, *all_shards(folder)):
                for saved in [place / "identity.json", *sorted(place.glob(_CHECKPOINTS))]:
                    saved.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot forget {folder}: {error.strerror}; delete the folder yourself") from error


def newest_folder(root: Path) -> tuple[Path, int]:
    """The folder with the newest checkpoint among `root` and the nodes' folders below it, and how many have one.

    Raises `StoreError` if none has.
    """
    ages: dict[Path, float] = {}
    for depth in ("", "*/", "*/*/", "*/*/shard-*/"):
        for path in sorted(root.glob(depth + _CHECKPOINTS)):
            folder = path.parent.parent if is_shard(path.parent) else path.parent
            if not folder.name.startswith("."):
                ages[folder] = max(ages.get(folder, 0.0), path.stat().st_mtime)
    damaged = sorted(f"{path}" for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}{_CHECKPOINTS}.damaged"))
    if not ages and damaged:
        raise StoreError(f"nothing to export in {root}: all that was saved is damaged ({', '.join(damaged)})")
    if not ages:
        raise StoreError(f"nothing to export in {root}: run `p2pfusion join` first, or name a folder with --state")
    return max(ages, key=lambda folder: ages[folder]), len(ages)


def resumption(
    resumed_round: int | None, run_id: bytes, saved: Mapping[bytes, int], goal: Until, damaged: Sequence[str] = ()
) -> str | None:
    """What to say of what the state folder held: newest round saved by run id; files found damaged at this start."""
    if resumed_round is not None:
        text = f"resumed from round {resumed_round} of this run"
        if goal.rounds is not None and resumed_round >= goal.rounds:
            text += ", where it was to end: choose a later --until rounds=N, or start anew with --fresh"
        return text
    others = [round_ for other, round_ in saved.items() if other != run_id]
    if damaged:
        return f"damaged in the state folder: {', '.join(damaged)}; nothing of this run can be used: it starts anew"
    if not others:
        return None
    return (
        f"the state folder holds round {max(others)} of another run: this one starts anew beside it; of each of the "
        f"last {FOREIGN_RUNS_KEPT} other runs the newest checkpoint is kept (--fresh deletes them)"
    )
