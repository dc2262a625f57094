"""The folder survives what disks and processes do: crashes at any point, damage, a full disk, two owners."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint, Identity
from p2pfusion.store.checkpoint import PREFIX, read, write
from p2pfusion.store.folder import DAMAGED_KEPT, FolderStore, newest_checkpoint, saved_runs
from p2pfusion.store.identity import Damaged
from p2pfusion.store.keeping import CHECKPOINTS_KEPT, FOREIGN_RUNS_KEPT, to_forget

RUN = bytes(range(32))
OTHER_RUN = bytes(32)
IDENTITY = Identity(peer=b"p" * 16, incarnation=3, last=17, run_id=RUN)


def checkpoint(round_: int, run_id: bytes = RUN, *, scale: float = 1.0) -> Checkpoint:
    model = {
        "layers.0.weight": (np.arange(6, dtype=np.float32) * scale).reshape(2, 3),
        "layers.0.bias": np.array([-0.0, 1e-45], dtype=np.float32),
        "scalar": np.array(round_, dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    return Checkpoint(
        run_id=run_id,
        round=round_,
        chain=round_.to_bytes(32, "big"),
        weight=2**70 + round_,
        model=model,
        parts={
            "bytes": np.frombuffer(b"links\x00", np.uint8),
            "none": np.zeros(0, np.uint8),
            "residual": np.array([1.0, -0.0], np.float32),
        },
    )


def assert_same(one: Checkpoint | None, other: Checkpoint) -> None:
    assert one is not None
    for name in ("run_id", "round", "chain", "weight"):
        assert getattr(one, name) == getattr(other, name)
    assert one.model.keys() == other.model.keys()
    assert one.parts.keys() == other.parts.keys()
    for mine, theirs in ((one.model, other.model), (one.parts, other.parts)):
        for name, array in theirs.items():
            found = mine[name]
            assert isinstance(found, np.ndarray)
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FolderStore]:
    with FolderStore(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def folder(store: FolderStore, tmp_path: Path) -> Path:
    return tmp_path / "state"


def reopened(store: FolderStore, folder: Path) -> FolderStore:
    store.close()
    return FolderStore(folder)


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith((".", "p2pfusion")))


def test_a_fresh_folder_holds_nothing(store: FolderStore) -> None:
    assert store.load_identity() is None
    assert store.load_checkpoint(RUN) is None


def test_what_was_saved_is_there_after_a_restart(store: FolderStore, folder: Path) -> None:
    store.save_identity(IDENTITY)
    store.save_checkpoint(checkpoint(8))
    with reopened(store, folder) as again:
        assert again.load_identity() == IDENTITY
        assert_same(again.load_checkpoint(RUN), checkpoint(8))
        assert again.load_checkpoint(OTHER_RUN) is None


def test_loaded_arrays_are_the_callers_own(store: FolderStore) -> None:
    store.save_checkpoint(checkpoint(8))
    loaded = store.load_checkpoint(RUN)
    assert loaded is not None
    loaded.model["layers.0.weight"][:] = 7
    loaded.parts["residual"][:] = 7
    assert_same(store.load_checkpoint(RUN), checkpoint(8))


def test_parameters_come_back_in_the_order_they_were_given(store: FolderStore) -> None:
    """A model's hash is over blueprint order, which no sorting may change."""
    model = {name: np.ones(2, np.float32) for name in ("hidden2.weight", "hidden1.weight", "output.bias")}
    store.save_checkpoint(replace(checkpoint(1), model=model))
    loaded = store.load_checkpoint(RUN)
    assert loaded is not None
    assert list(loaded.model) == list(model)


def test_arrays_of_any_layout_are_saved_by_value(store: FolderStore) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    saved = Checkpoint(run_id=RUN, round=1, chain=b"c" * 32, weight=1, model={"w": weight}, parts={"v": weight.T})
    store.save_checkpoint(saved)
    assert_same(store.load_checkpoint(RUN), saved)


def test_the_two_saved_last_are_kept_whatever_their_round(store: FolderStore, folder: Path) -> None:
    for round_ in (8, 16, 900, 24):  # a switch may go back
        store.save_checkpoint(checkpoint(round_))
    assert names(folder) == ["checkpoint-24.safetensors", "checkpoint-900.safetensors"]
    assert CHECKPOINTS_KEPT == 2
    assert_same(store.load_checkpoint(RUN), checkpoint(24))
    store.save_checkpoint(checkpoint(1, OTHER_RUN))
    assert_same(newest_checkpoint(folder), checkpoint(1, OTHER_RUN))
    assert_same(store.load_checkpoint(RUN), checkpoint(24))


def test_of_each_other_run_the_newest_stays(store: FolderStore, folder: Path) -> None:
    for round_ in (8, 16, 24):
        store.save_checkpoint(checkpoint(round_, OTHER_RUN))
    for round_ in (8, 16, 24, 32):  # 24 is another run's name by now
        store.save_checkpoint(checkpoint(round_))
        assert_same(store.load_checkpoint(RUN), checkpoint(round_))
        assert_same(store.load_checkpoint(OTHER_RUN), checkpoint(24, OTHER_RUN))
        assert_same(newest_checkpoint(folder), checkpoint(round_))
    tagged = f"checkpoint-24-{RUN[:8].hex()}.safetensors"
    assert names(folder) == [tagged, "checkpoint-24.safetensors", "checkpoint-32.safetensors"]
    assert saved_runs(folder) == {RUN: 32, OTHER_RUN: 24}
    with reopened(store, folder) as again:
        again.save_checkpoint(checkpoint(25, OTHER_RUN))
        assert_same(again.load_checkpoint(RUN), checkpoint(32))
        assert_same(again.load_checkpoint(OTHER_RUN), checkpoint(25, OTHER_RUN))


def test_other_runs_are_bounded_and_the_oldest_goes_first(store: FolderStore, folder: Path) -> None:
    runs = [bytes([number]) * 32 for number in range(FOREIGN_RUNS_KEPT + 2)]
    for run_id in runs:
        store.save_checkpoint(checkpoint(8, run_id))
    assert sorted(saved_runs(folder)) == runs[1:]
    assert len(names(folder)) == FOREIGN_RUNS_KEPT + 1


def test_which_checkpoints_are_forgotten() -> None:
    mine, other, *more = (bytes([number]) for number in range(7))
    assert to_forget([], mine) == []
    assert to_forget([mine, mine, mine], mine) == [1, 2]
    assert to_forget([other, other, mine, other, mine], mine) == [1, 3, 4]
    assert to_forget([other, *more], mine) == [4, 5]


def test_a_round_saved_again_replaces_the_first(store: FolderStore, folder: Path) -> None:
    for scale in (1.0, 2.0, 3.0):
        store.save_checkpoint(checkpoint(8, scale=scale))
        store.save_checkpoint(checkpoint(16, scale=scale))
    assert names(folder) == ["checkpoint-16.safetensors", "checkpoint-8.safetensors"]
    store.save_checkpoint(checkpoint(8, scale=4.0))
    assert_same(store.load_checkpoint(RUN), checkpoint(8, scale=4.0))


def test_any_safetensors_reader_opens_a_checkpoint(store: FolderStore, folder: Path) -> None:
    store.save_checkpoint(checkpoint(8))
    tensors = load_file(folder / "checkpoint-8.safetensors")
    assert sorted(tensors) == sorted([*checkpoint(8).model, *(PREFIX + name for name in checkpoint(8).parts)])


def test_only_float32_arrays_are_a_model(store: FolderStore, folder: Path) -> None:
    for model in ({"w": np.zeros(2)}, {"w": [1.0]}, {PREFIX + "w": np.zeros(2, np.float32)}):
        bad = Checkpoint(run_id=RUN, round=1, chain=b"", weight=1, model=dict(model))
        with pytest.raises(StoreError, match="float32"):
            store.save_checkpoint(bad)
    for part in (np.zeros(2), np.zeros(2, np.int8), [1]):
        with pytest.raises(StoreError, match="bytes or float32"):
            store.save_checkpoint(replace(checkpoint(1), parts={"p": part}))
    assert names(folder) == []


def test_files_are_for_their_owner_only(store: FolderStore, folder: Path) -> None:
    old = os.umask(0)
    try:
        store.save_identity(IDENTITY)
        store.save_checkpoint(checkpoint(8))
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert set(modes.values()) == {0o600, 0o700}
    assert {name for name, mode in modes.items() if mode == 0o700} == {"state", ".p2pfusion-writing"}


# Crashes


def test_leftovers_of_a_crashed_writer_are_removed_and_nothing_else(store: FolderStore, folder: Path) -> None:
    store.save_checkpoint(checkpoint(8))
    for name in ("identity.json", "checkpoint-16.safetensors", ".tmpX4f2a"):
        (folder / ".p2pfusion-writing" / name).write_bytes(b"half")
    (folder / "notes.tmp").write_text("somebody else's")
    (folder / "tmp").mkdir()
    (folder / "lock").write_text("somebody else's")
    with reopened(store, folder) as again:
        assert list((folder / ".p2pfusion-writing").iterdir()) == []
        assert_same(again.load_checkpoint(RUN), checkpoint(8))
    assert names(folder) == ["checkpoint-8.safetensors", "lock", "notes.tmp", "tmp"]


KILLED = """
import json, os, sys
from store_tests import IDENTITY, RUN, assert_same, checkpoint, names
from p2pfusion.seams import Identity
from p2pfusion.store.folder import FolderStore

def die_before_call(point):
    seen = 0
    def dying(real):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == point:
                os._exit(9)
            return real(*args, **kwargs)
        return call
    for name in ("open", "chmod", "fsync", "replace", "unlink", "close"):
        setattr(os, name, dying(getattr(os, name)))

for point in range(1, 100):
    with FolderStore(sys.argv[1]) as store:
        store.save_identity(Identity(peer=b"p" * 16, incarnation=2, last=9, run_id=RUN))
        store.save_checkpoint(checkpoint(8))
    child = os.fork()
    if child == 0:
        store = FolderStore(sys.argv[1])
        die_before_call(point)
        store.save_identity(IDENTITY)
        store.save_checkpoint(checkpoint(16))
        store.save_checkpoint(checkpoint(24))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with FolderStore(sys.argv[1]) as store:
        loaded = store.load_checkpoint(RUN)
        assert_same(loaded, checkpoint(loaded.round))
        print(json.dumps([store.load_identity() == IDENTITY, loaded.round, "".join(names(sys.argv[1]))]))
    if status == 0:
        break
"""


def test_killed_between_any_two_steps_the_folder_holds_the_old_or_the_new(tmp_path: Path) -> None:
    """The process dies before each of its calls to the system in turn, until it survives."""
    (tmp_path / "store_tests.py").write_text(Path(__file__).read_text())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "state")]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout
    outcomes = [tuple(json.loads(line)) for line in said.splitlines()]
    found = [(identity, round_) for identity, round_, _ in outcomes]
    assert found == sorted(found)  # each step further leaves as much or more
    assert {*found} == {(False, 8), (True, 8), (True, 16), (True, 24)}
    assert len(found) > 15
    assert not [names for _, _, names in outcomes if "damaged" in names]


def test_a_truncated_file_is_set_aside_and_the_one_before_is_used(store: FolderStore, folder: Path) -> None:
    store.save_checkpoint(checkpoint(8))
    store.save_checkpoint(checkpoint(16))
    path = folder / "checkpoint-16.safetensors"
    whole = path.read_bytes()
    for length in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_same(newest_checkpoint(folder), checkpoint(8))
        assert path.exists(), "reading without the lock changes nothing"
        assert_same(store.load_checkpoint(RUN), checkpoint(8))
        assert names(folder) == ["checkpoint-16.safetensors.damaged", "checkpoint-8.safetensors"]
        assert (folder / "checkpoint-16.safetensors.damaged").read_bytes() == whole[:length]


def test_when_all_are_damaged_there_is_none_and_saving_goes_on(store: FolderStore, folder: Path) -> None:
    store.save_checkpoint(checkpoint(8))
    store.save_checkpoint(checkpoint(16))
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"?" * 100)
    both = r"no intact checkpoint in .*\(damaged: checkpoint-16.safetensors{0}, checkpoint-8.safetensors{0}\); name"
    with pytest.raises(StoreError, match=both.format("")):
        newest_checkpoint(folder)
    assert store.load_checkpoint(RUN) is None
    with pytest.raises(StoreError, match=both.format(".damaged")):
        newest_checkpoint(folder)
    store.save_checkpoint(checkpoint(24))
    assert_same(store.load_checkpoint(RUN), checkpoint(24))
    assert newest_checkpoint(folder).round == 24


def test_damaged_files_kept_aside_are_bounded(store: FolderStore, folder: Path) -> None:
    (folder / "mine.damaged").write_text("somebody else's")
    for round_ in range(1, DAMAGED_KEPT + 3):
        (folder / f"checkpoint-{round_}.safetensors").write_bytes(b"?")
        assert store.load_checkpoint(RUN) is None
        assert len(list(folder.glob("checkpoint-*.damaged"))) == min(round_, DAMAGED_KEPT)
    assert (folder / "mine.damaged").exists()


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("intact") / "checkpoint-8.safetensors"
    write(path, checkpoint(8), 1)
    return path


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(intact: Path, position: int, bit: int) -> None:
    data = bytearray(intact.read_bytes())
    data[position % len(data)] ^= 1 << bit
    flipped = intact.with_name("flipped")
    flipped.write_bytes(data)
    try:
        loaded = read(flipped)
    except Damaged:
        return
    assert_same(loaded, checkpoint(8))  # a bit that means nothing, as in padding


def test_foreign_files_are_damaged_not_trusted(store: FolderStore, folder: Path) -> None:
    path = folder / "checkpoint-8.safetensors"
    good = checkpoint(8)
    tensors = {name: np.asarray(array) for name, array in good.model.items()}
    for metadata in (
        None,
        {"format": "pt"},
        {"format": "p2pfusion-checkpoint-1"},
        {"format": "p2pfusion-checkpoint-2"},
    ):
        save_file(tensors, path, metadata=metadata)
        assert store.load_checkpoint(RUN) is None
        assert names(folder) == ["checkpoint-8.safetensors.damaged"]
    for field, value in (("round", "-1"), ("weight", "9" * 65), ("round", "٨"), ("run_id", "xyz"), ("chain", "0")):
        write(path, good, 1)
        with_lie = {**_metadata(path), field: value}
        save_file(load_file(path), path, metadata=with_lie)
        with pytest.raises(Damaged):
            read(path)


def _metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] = header["__metadata__"]
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: b"",
        lambda text: text.replace(b'"last": 17', b'"last": 16'),
        lambda text: text.replace(b'"incarnation": 3', b'"incarnation": 3.0'),
        lambda text: text.replace(b'"run_id": "00', b'"run_id": "01'),
        lambda text: text + b" " * 5000,
        lambda text: b"[" * 4000,
        lambda text: b"\xff\xfe",
        lambda text: b"[]",
    ],
)
def test_a_damaged_identity_makes_a_new_peer(
    store: FolderStore, folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    store.save_identity(IDENTITY)
    path = folder / "identity.json"
    path.write_bytes(damage(path.read_bytes()))
    assert store.load_identity() is None
    assert names(folder) == ["identity.json.damaged"]
    store.save_identity(IDENTITY)
    assert store.load_identity() == IDENTITY


def test_a_forgotten_identity_is_gone_for_good(store: FolderStore, folder: Path) -> None:
    store.forget_identity()
    store.save_identity(IDENTITY)
    store.forget_identity()
    assert store.load_identity() is None
    with reopened(store, folder) as again:
        assert again.load_identity() is None


# Disks


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize(
    ("number", "fix"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written"), (errno.EIO, "check")]
)
def test_a_disk_that_fails_costs_only_the_new_file(
    store: FolderStore, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, fix: str
) -> None:
    store.save_identity(IDENTITY)
    store.save_checkpoint(checkpoint(8))

    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(StoreError, match=rf"cannot write .*identity.json: .*{fix}.*--state DIR"):
            store.save_identity(Identity(peer=b"p" * 16, incarnation=4, last=18, run_id=RUN))
        with pytest.raises(StoreError, match=rf"cannot write .*checkpoint-16.safetensors: .*{fix}"):
            store.save_checkpoint(checkpoint(16))
    assert list((folder / ".p2pfusion-writing").iterdir()) == []
    with reopened(store, folder) as again:
        assert again.load_identity() == IDENTITY
        assert_same(again.load_checkpoint(RUN), checkpoint(8))
        again.save_checkpoint(checkpoint(16))
        assert_same(again.load_checkpoint(RUN), checkpoint(16))


FULL = """
import resource, signal, sys
import numpy as np
from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint
from p2pfusion.store.folder import FolderStore
store = FolderStore(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
big = Checkpoint(run_id=b"r", round=9, chain=b"", weight=1, model={"w": np.zeros(10000, np.float32)})
for write in (lambda: store.save_checkpoint(big), lambda: store.spill(bytes(10000))):
    try:
        write()
    except StoreError as error:
        print(error)
"""


def test_a_real_write_that_fails_half_way_is_a_store_error(store: FolderStore, folder: Path) -> None:
    store.save_checkpoint(checkpoint(8))
    store.close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert said.count("cannot write") == said.count("File too large") == 2
    assert names(folder) == ["checkpoint-8.safetensors"]
    assert list((folder / ".p2pfusion-writing").iterdir()) == []


def test_a_folder_that_cannot_be_is_told_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot open .*file.*choose another.*--state DIR"):
        FolderStore(tmp_path / "file")
    with pytest.raises(StoreError, match="--state DIR"):
        FolderStore(tmp_path / "file" / "below")


# Owners


def test_one_folder_has_one_owner(store: FolderStore, folder: Path) -> None:
    with pytest.raises(StoreError, match=rf"in use by another process \(pid {os.getpid()}\).*--state DIR"):
        FolderStore(folder)
    store.close()
    store.close()
    with FolderStore(folder):
        pass
    with pytest.raises(StoreError, match="closed"):
        store.save_identity(IDENTITY)


OWNER = """
import sys
from p2pfusion.store.folder import FolderStore
store = FolderStore(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_two_processes_never_share_a_folder_and_a_killed_owner_frees_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=rf"in use by another process \(pid {owner.pid}\)"):
            FolderStore(tmp_path)
        owner.kill()
        owner.wait(timeout=10)
    with FolderStore(tmp_path) as store:
        store.save_identity(IDENTITY)


def test_export_reads_while_a_node_owns_the_folder(store: FolderStore, folder: Path) -> None:
    store.save_checkpoint(checkpoint(8))
    store.save_checkpoint(checkpoint(16))
    before = names(folder)
    assert_same(newest_checkpoint(folder), checkpoint(16))
    assert names(folder) == before
    with pytest.raises(StoreError, match=r"no checkpoint in .*--state DIR"):
        newest_checkpoint(folder / "nowhere")


def test_which_runs_are_saved_is_told_without_the_lock(store: FolderStore, folder: Path) -> None:
    assert saved_runs(folder) == saved_runs(folder / "nowhere") == {}
    store.save_checkpoint(checkpoint(8))
    assert saved_runs(folder) == {RUN: 8}
    store.save_checkpoint(checkpoint(3, OTHER_RUN))
    assert saved_runs(folder) == {RUN: 8, OTHER_RUN: 3}
    (folder / "checkpoint-8.safetensors").write_bytes(b"?")
    assert saved_runs(folder) == {OTHER_RUN: 3}
    assert saved_runs(folder / "identity.json" / "below") == {}


# What does not fit in memory


def test_spilled_bytes_are_read_back_and_leave_no_file(store: FolderStore, folder: Path) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate((1, 0, 70000, 1 << 20))]
    views = [store.spill(piece) for piece in pieces]
    assert [bytes(view) for view in views] == pieces
    assert all(view.readonly for view in views)
    assert list((folder / ".p2pfusion-writing").iterdir()) == []
    with reopened(store, folder):
        assert [bytes(view) for view in views] == pieces, "whoever still reads is not cut off"


def test_spilled_files_are_few_and_go_with_their_pieces(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfusion.store.spilling.ARENA_BYTES", 4096)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    views = [store.spill(bytes([number]) * 100) for number in range(200)]
    large = store.spill(b"x" * 10000)
    assert [view[0] for view in views] == list(range(200))
    assert bytes(large) == b"x" * 10000
    assert descriptors() - before <= 200 * 100 // 4000 + 3
    del views, large
    assert descriptors() - before <= 2


def test_a_disk_that_cannot_take_more_says_so_and_the_next_piece_tries_anew(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.spill(b"first")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("p2pfusion.store.spilling.ARENA_BYTES", 16)
        patch.setattr("p2pfusion.store.spilling.mmap.mmap", failing)
        with pytest.raises(StoreError, match=r"cannot write in .*free some space"):
            store.spill(b"x" * (65 << 20))
    assert bytes(store.spill(b"second")) == b"second"
    assert bytes(kept) == b"first"
