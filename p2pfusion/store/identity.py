"""An identity as one line of JSON that proves it is intact; and what it means that a saved file is not.

This module knows no files.
"""

from __future__ import annotations

import json
from typing import Any

from blake3 import blake3

from p2pfusion.seams import Identity

IDENTITY_BYTES_MAX = 4096
"""Ten times the longest one we write."""


class Damaged(Exception):
    """What was saved is not there exactly as we write it."""


def parse(data: bytes) -> Identity:
    """The identity in these bytes. Raises `Damaged`."""
    try:
        fields = json.loads(data.decode("ascii"))
        identity = Identity(
            peer=bytes.fromhex(fields["peer"]),
            incarnation=int(fields["incarnation"]),
            last=int(fields["last"]),
            run_id=bytes.fromhex(fields["run_id"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{type(error).__name__}") from None
    if data != spell(identity):
        raise Damaged("its contents do not match its hash")
    return identity


def spell(identity: Identity) -> bytes:
    """The one spelling; with its hash, because a flipped digit of `last` would make us publish to a round twice."""
    fields: dict[str, Any] = {
        "peer": identity.peer.hex(),
        "incarnation": identity.incarnation,
        "last": identity.last,
        "run_id": identity.run_id.hex(),
    }
    fields["blake3"] = blake3(json.dumps(fields).encode()).hexdigest()
    return json.dumps(fields).encode() + b"\n"
