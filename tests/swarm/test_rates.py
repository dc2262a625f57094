"""Others' rates, as their contributions show them."""

from __future__ import annotations

from p2pfusion.config import PEERS_MAX
from p2pfusion.swarm.rates import Rates
from tests.swarm.made import peer


def test_who_was_not_heard_of_counts_as_i_do() -> None:
    rates = Rates()
    rates.heard(peer(2), 4, 0.25)
    assert rates.among([peer(1), peer(2), peer(3)], peer(1), 0.5) == (0.5, 0.25, 0.5)


def test_my_own_rate_is_the_one_i_was_told() -> None:
    rates = Rates()
    rates.heard(peer(1), 4, 0.75)
    assert rates.among([peer(1)], peer(1), 0.5) == (0.5,)


def test_the_newest_round_counts_in_whatever_order_they_come() -> None:
    rates = Rates()
    for round_, rate in ((4, 0.5), (6, 0.25), (5, 1.0), (6, 0.125)):
        rates.heard(peer(2), round_, rate)
    assert rates.among([peer(2)], peer(1), 1.0) == (0.125,)


def test_the_dead_are_forgotten() -> None:
    rates = Rates()
    rates.heard(peer(2), 4, 0.25)
    rates.forget(peer(2))
    rates.forget(peer(3))
    assert rates.among([peer(2)], peer(1), 1.0) == (1.0,)
    assert len(rates) == 0


def test_more_than_fit_push_out_the_longest_silent() -> None:
    rates = Rates()
    for number in range(PEERS_MAX + 1):
        rates.heard(peer(number), 2 if number == 5 else 3 + number, 0.25)
    assert len(rates) == PEERS_MAX
    assert rates.among([peer(5), peer(6), peer(PEERS_MAX)], peer(5000), 1.0) == (1.0, 0.25, 0.25)
