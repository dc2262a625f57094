"""What does remembering the pieces of messages save? A gossip call of 50 reports and 100 `have`, in turns.

    python bench/codec_cost.py [--repeats 100]

Three ways: `plain`, the same schema in one walk that remembers nothing; `new`, every piece said for the first time;
`again`, every piece said before. Medians of processor time in ms to encode and to decode, frame included, as one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from statistics import median

from blake3 import blake3

from p2pfusion.wire import codec, shapes
from p2pfusion.wire.messages import Gossip, Have, Report, ShardReport
from p2pfusion.wire.pieces import Whole

PLAIN = Whole(shapes.GOSSIP, 2048)


def hash_of(number: int) -> bytes:
    return blake3(b"%d" % number).digest()


def call(turn: int) -> Gossip:
    """Every turn's pieces are different ones."""
    return Gossip(
        run_id=hash_of(0),
        sender=hash_of(1)[:16],
        reports=tuple(report(number, turn) for number in range(50)),
        have=tuple(Have(hash_of(1000 * turn + number), b"\x01") for number in range(100)),
    )


def report(number: int, turn: int) -> Report:
    shard = ShardReport(
        shard=0,
        tip_round=4,
        tip_chain=hash_of(2),
        tip_weight=9,
        newest=7,
        floor=8,
        model_hash=hash_of(3),
        digests=tuple((round_, hash_of(number + round_ + turn)[:16]) for round_ in range(5, 8)),
    )
    return Report(
        peer=hash_of(number)[:16],
        name=f"node-{number}",
        addresses=(f"10.0.0.{number}:7000",),
        incarnation=1,
        beat=turn,
        role="trains",
        owes_graft=False,
        stop=None,
        shards=(shard,),
    )


def took_ms(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return 1000 * (time.process_time() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    measured: dict[str, list[float]] = {}
    size = 0
    for turn in range(options.repeats):
        said, heard = call(2 * turn), codec.frame(PLAIN.encode(call(2 * turn + 1)))
        size = len(heard)
        steps: dict[str, Callable[[], object]] = {
            "encode_plain": lambda said=said: codec.frame(PLAIN.encode(said)),  # type: ignore[misc]
            "encode_new": lambda said=said: codec.encode_gossip(said),  # type: ignore[misc]
            "encode_again": lambda said=said: codec.encode_gossip(said),  # type: ignore[misc]
            "decode_plain": lambda heard=heard: PLAIN.decode(codec.unframe(heard, 1 << 16)),  # type: ignore[misc]
            "decode_new": lambda heard=heard: codec.decode_gossip(heard),  # type: ignore[misc]
            "decode_again": lambda heard=heard: codec.decode_gossip(heard),  # type: ignore[misc]
        }
        for name, step in steps.items():
            measured.setdefault(name, []).append(took_ms(step))
    result = {f"{name}_ms": round(median(values), 3) for name, values in measured.items()}
    print(json.dumps({**result, "bytes": size, "python": platform.python_version()}))


if __name__ == "__main__":
    main()
