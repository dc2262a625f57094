"""Whether a run is over, by what its devices say of the shards that they hold.

Pure: offers come in. Knows no network, no time, and no owner but by its own shard, which is settled when it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2pfusion.wire.hops import HeldShard, Offer


def shards_of(offers: Iterable[Offer], mine: Sequence[HeldShard]) -> dict[int, HeldShard]:
    """The newest that is known of every shard."""
    found = {one.shard: one for one in mine}
    for offer in offers:
        for one in offer.held:
            if one.shard not in found or one.tip_round > found[one.shard].tip_round:
                found[one.shard] = one
    return found


def is_settled(offers: Iterable[Offer], mine: Sequence[HeldShard], shards: int) -> bool:
    """Whether each of so many shards is known, and all holders here have its newest tip and wait for nothing more.

    `offers` of those who are here and the last ones of those who left. These wait for nothing: what they held last
    counts only for what is the newest tip.
    """
    known = list(offers)
    newest = shards_of(known, mine)
    held = [*mine, *(one for offer in known if not offer.is_leaving for one in offer.held)]
    return len(newest) == shards and all(one.is_settled and one.chain == newest[one.shard].chain for one in held)
