"""The body of an indirect probe: two ids and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import PROBE_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire.codec import decode_probe, encode_probe, frame
from p2pfusion.wire.routes import request_bytes_max


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_there_and_back(run_id, target):
    data = encode_probe(run_id, target)
    assert decode_probe(data) == (run_id, target)
    assert len(data) <= PROBE_BYTES_MAX == request_bytes_max("POST", "/v1/probe")


@given(st.binary(max_size=PROBE_BYTES_MAX + 1))
def test_whatever_else_is_refused(data):
    for body in (data, frame(data)):
        with pytest.raises(WireError):
            decode_probe(body)


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_damaged_one_is_refused(at):
    data = bytearray(encode_probe(bytes(32), bytes(16)))
    data[at] ^= 1
    with pytest.raises(WireError):
        decode_probe(data)


@pytest.mark.parametrize(("run_id", "target"), [(bytes(31), bytes(16)), (bytes(32), bytes(17)), (bytes(32), b"")])
def test_ids_of_another_length_are_our_own_mistake(run_id, target):
    with pytest.raises(ValueError, match="not fit for the wire"):
        encode_probe(run_id, target)
