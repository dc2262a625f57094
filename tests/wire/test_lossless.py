"""The lossless stage: exact where it pays, and no bomb swells in it (RELIABILITY.md 2.4)."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.errors import WireError
from p2pfusion.wire import lossless
from p2pfusion.wire.compression import decode_into
from p2pfusion.wire.lossless import FRAME_BYTES_MIN, restored, squeezed, zstd

MAGIC = b"\x28\xb5\x2f\xfd"
PIECE = 1 << 20
HONEST = zstd.compress(bytes(PIECE), 1)


def frame(descriptor: int, header: bytes, runs: int) -> bytes:
    """A frame that repeats a zero 128 Ki times in each of so many blocks of four bytes."""
    block = (1 << 20 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1 << 20 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return MAGIC + bytes([descriptor]) + header + (block * (runs - 1) + last if runs else b"\x01\0\0")


def window(log: int) -> bytes:
    return bytes([(log - 10) << 3])


BOMBS = {
    "256 MiB in 8 KiB": frame(0x00, window(20), 2048),
    "256 MiB in 8 KiB that says so": frame(0xA0, struct.pack("<I", 1 << 28), 2048),
    "256 MiB in 8 KiB that says 1 MiB": frame(0xA0, struct.pack("<I", PIECE), 2048),
    "1 TiB forged": frame(0xE0, struct.pack("<Q", 1 << 40), 8),
    "1 TiB forged, small window": frame(0xC0, window(20) + struct.pack("<Q", 1 << 40), 8),
    "window 2^31": frame(0x00, window(31), 8),
    "window 2^21": frame(0x00, window(21), 8),
    "one byte short": zstd.compress(bytes(PIECE - 1), 1),
    "one byte more": zstd.compress(bytes(PIECE + 1), 1),
    "trailing byte": HONEST + b"\0",
    "two frames": zstd.compress(bytes(PIECE // 2), 1) * 2,
    "a second, empty frame": HONEST + zstd.compress(b"", 1),
    "a skippable frame before": b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + HONEST,
    "a skippable frame behind": HONEST + b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
    "truncated": HONEST[:-1],
    "without its last block": frame(0x00, window(20), 9)[:-4],
    "only a header": HONEST[:8],
    "wrong checksum": zstd.compress(bytes(PIECE), options={zstd.CompressionParameter.checksum_flag: 1})[:-1] + b"?",
    "a dictionary": frame(0x03, window(20) + b"\1\0\0\0", 8),
    "empty blocks": MAGIC + b"\0" + window(20) + bytes(3 * 340_000),
    "no frame": bytes(100),
    "nothing": b"",
}


def test_the_frames_made_by_hand_are_frames():
    assert restored(frame(0x00, window(20), 8), PIECE) == bytes(PIECE)
    assert restored(frame(0xA0, struct.pack("<I", PIECE), 8), PIECE) == bytes(PIECE)
    assert len(BOMBS["256 MiB in 8 KiB"]) < 8210


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_swells(name):
    out = np.zeros(PIECE - 16384 - 4096, np.float32)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            restored(BOMBS[name], PIECE)
        with pytest.raises(WireError):
            decode_into("int8", BOMBS[name], out)
        assert tracemalloc.get_traced_memory()[1] < 4 * PIECE
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300) | st.builds(bytes, st.integers(0, 5000)))
def test_there_and_back(piece):
    stored = squeezed(piece)
    assert len(stored) <= len(piece)
    assert bytes(restored(stored, len(piece))) == piece
    assert bytes(restored(memoryview(bytearray(stored)), len(piece))) == piece


@given(st.data(), st.binary(min_size=1, max_size=20))
def test_damage_is_an_error_or_other_bytes_of_the_right_size(data, pattern):
    stored = bytearray(squeezed(pattern * 100))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(WireError):
        assert len(restored(stored, 100 * len(pattern))) == 100 * len(pattern)
    with pytest.raises(WireError):
        restored(stored[:at], 100 * len(pattern))


def test_only_where_it_pays():
    noise = np.random.default_rng(1).bytes(1 << 18)
    assert squeezed(noise) is noise
    assert squeezed(noise[:100]) == noise[:100]
    barely = (np.random.default_rng(1).standard_normal(1 << 18) * 65).clip(-127, 127).astype(np.int8).tobytes()
    assert len(zstd.compress(barely, 1)) < len(barely)
    assert squeezed(barely) is barely
    worth = np.random.default_rng(1).integers(0, 100, 1 << 18, np.uint8).tobytes()
    assert len(squeezed(worth)) < 0.9 * len(worth)


def test_a_long_piece_is_not_squeezed_when_a_sample_says_no(monkeypatch):
    """Time is what the sample saves: of 256 KiB at most 32 are squeezed for nothing."""
    seen, compress = [], zstd.compress

    def counted(piece: bytes, level: int) -> bytes:
        seen.append(len(piece))
        return compress(piece, level)

    monkeypatch.setattr(lossless.zstd, "compress", counted)
    squeezed(np.random.default_rng(1).bytes(1 << 18))
    assert seen == [1 << 15]


def test_no_frame_is_shorter_than_the_least():
    assert min(len(zstd.compress(bytes(n), 1)) for n in (0, 1, 2, 100)) >= FRAME_BYTES_MIN
