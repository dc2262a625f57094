"""When the next round is trained while the last one's contributions still travel."""

from __future__ import annotations

import pytest

from p2pfusion.config import CadenceConfig
from p2pfusion.errors import ConfigError
from p2pfusion.swarm.ahead import KEPT_MAX, UNDER_WAY_MAX, Ahead
from tests.swarm.made import peer


def measured(travel_s: float, train_s: float, cadence: CadenceConfig | None = None) -> Ahead:
    ahead = Ahead(cadence or CadenceConfig())
    travelled(ahead, travel_s, KEPT_MAX)
    ahead.trained(train_s)
    return ahead


def travelled(ahead: Ahead, travel_s: float, count: int) -> None:
    for number in range(count):
        ahead.heard(peer(number), 10.0 * number)
        ahead.complete(peer(number), 10.0 * number + travel_s)


@pytest.mark.parametrize(
    ("travel_s", "train_s", "rounds"),
    [
        (3.0, 20.0, 1),
        (1.9, 20.0, 0),  # less than a tenth of the training
        (0.2, 0.5, 0),  # short rounds: not worth it
        (0.3, 0.5, 1),
        (0.0, 0.0, 0),
    ],
)
def test_a_long_way_is_hidden_behind_the_training(travel_s, train_s, rounds):
    assert measured(travel_s, train_s).rounds == rounds


def test_nothing_is_decided_before_anything_is_known():
    assert Ahead(CadenceConfig()).rounds == 0
    ahead = Ahead(CadenceConfig())
    travelled(ahead, 9.0, 3)
    assert ahead.rounds == 0


def test_it_stays_on_until_the_way_is_clearly_short():
    ahead = measured(3.0, 20.0)
    assert ahead.rounds == 1
    travelled(ahead, 1.5, KEPT_MAX)
    assert ahead.rounds == 1
    travelled(ahead, 0.9, KEPT_MAX)
    assert ahead.rounds == 0
    travelled(ahead, 1.5, KEPT_MAX)
    assert ahead.rounds == 0


def test_a_synchronous_round_is_never_left_early():
    assert measured(30.0, 20.0, CadenceConfig(quorum=1.0)).rounds == 0


def test_what_is_configured_holds():
    assert measured(30.0, 20.0, CadenceConfig(ahead_rounds=0)).rounds == 0
    assert measured(0.0, 20.0, CadenceConfig(ahead_rounds=4, quorum=1.0)).rounds == 4
    for wrong in (-1, 5):
        with pytest.raises(ConfigError, match="ahead_rounds"):
            CadenceConfig(ahead_rounds=wrong)


def test_what_never_came_and_what_was_not_heard_of_teach_nothing():
    ahead = Ahead(CadenceConfig())
    ahead.trained(1.0)
    ahead.complete(peer(1), 50.0)
    for number in range(UNDER_WAY_MAX + 1):
        ahead.heard(peer(number), 0.0)
    ahead.complete(peer(0), 50.0)  # forgotten: there is room for so many
    assert ahead.rounds == 0
    ahead.complete(peer(1), 50.0)
    assert ahead.rounds == 1
