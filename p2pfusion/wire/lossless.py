"""The lossless last stage: zstd where it pays, and nothing that a bomb could swell.

The schema says how many bytes a piece has. So nothing on the wire says whether it was squeezed: a piece exactly as long
as it should be is as it is, and a shorter one is one zstd frame of it. `restored` asks the frame for so many bytes and
one more, whatever the frame says of its own size, and grants it a window of 1 MiB: what a frame may claim (terabytes,
a window of 2^31) costs nothing. A decompressor asked for all at once trusts the frame instead.

`backports.zstd` and not `zstandard`: equally fast on our data, and from Python 3.14 on it is the standard library.
"""

from __future__ import annotations

import sys

from p2pfusion.errors import WireError
from p2pfusion.wire.coding import Body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 1
"""Higher levels give the same ratio on our data at half the speed, negative ones none (MEASUREMENTS.md A4)."""
_GAIN_MIN = 0.03
"""A piece that shrinks by less stays as it is: squeezing costs more time than all the rest of a codec."""
_SAMPLE_BYTES = 1 << 15
"""Squeezed first, from the middle of a longer piece, to learn whether the whole is worth it."""
_WINDOW_LOG_MAX = 20
"""1 MiB: no piece is longer than that, so an honest frame needs no more."""
FRAME_BYTES_MIN = 9
"""Magic number, frame header and block header. (An empty frame; one with content is longer still.)"""


def squeezed(piece: bytes, gain_min: float = _GAIN_MIN) -> bytes:
    """The zstd frame of a piece where it is shorter by this share at least, else the piece itself."""
    size = len(piece)
    if size <= FRAME_BYTES_MIN:
        return piece
    if size > 2 * _SAMPLE_BYTES:
        middle = (size - _SAMPLE_BYTES) // 2
        sample = zstd.compress(memoryview(piece)[middle : middle + _SAMPLE_BYTES], _LEVEL)
        if len(sample) > (1 - gain_min) * _SAMPLE_BYTES:
            return piece
    frame = zstd.compress(piece, _LEVEL)
    return frame if len(frame) <= (1 - gain_min) * size else piece


def restored(stored: Body, size: int) -> Body:
    """The piece of exactly `size` bytes that these stand for. Raises `WireError`; never makes more than `size` + 1."""
    stored_bytes = memoryview(stored).nbytes
    if stored_bytes == size:
        return stored
    if stored_bytes > size:
        raise WireError(f"{stored_bytes} bytes where at most {size} belong")
    frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX})
    try:
        piece = frame.decompress(stored, size + 1)
    except zstd.ZstdError as error:
        raise WireError(f"no zstd frame: {error}") from error
    if len(piece) != size or not frame.eof or frame.unused_data:
        raise WireError(f"not one whole zstd frame of {size} bytes")
    return piece
