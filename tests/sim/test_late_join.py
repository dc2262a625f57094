"""A late joiner with a 10 M parameter model: four donors, one slow link into the joiner, nobody held up.

The joiner's link is made of four directed ones that share its rate evenly, one from each donor.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from p2pfusion.config import CadenceConfig
from p2pfusion.sim.faults import Arrival
from p2pfusion.sim.light import LightLearner, light_blueprint
from p2pfusion.sim.links import LinkModel
from p2pfusion.sim.loop import run
from p2pfusion.sim.scenario import Outcome, Scenario
from p2pfusion.sim.world import World

BLUEPRINT = light_blueprint(4460)
DONORS = 4
RATE_BYTES_PER_S = 12_500_000.0
ARRIVES_S = 132.0
"""Just after the first snapshot, which is taken every eighth round."""
LINK = LinkModel(latency_s=0.002, jitter_s=0.001, bandwidth_bytes_per_s=RATE_BYTES_PER_S)
SCENARIO = Scenario(
    nodes=DONORS + 1,
    rounds=11,
    learns="light",
    link=LINK,
    cadence=CadenceConfig(round_min_s=0.0, ahead_rounds=0),  # so that a report says when its round was published
    arrivals=(Arrival(node=DONORS, at_s=ARRIVES_S),),
)


def gaps_s(outcome: Outcome, from_s: float, to_s: float) -> list[float]:
    return [after - before for before, after in pairwise(outcome.reported_s) if from_s <= after < to_s]


def test_the_model_comes_at_the_links_rate_and_the_donors_hardly_notice():
    assert 9_900_000 < BLUEPRINT.size < 10_100_000
    world = World(SCENARIO, lambda index: LightLearner(index, blueprint=BLUEPRINT, cost_s=60.0), seed=1)
    for donor in range(1, DONORS + 1):
        world.network.overrides[donor, DONORS + 1] = LinkModel(
            latency_s=LINK.latency_s, jitter_s=LINK.jitter_s, bandwidth_bytes_per_s=RATE_BYTES_PER_S / DONORS
        )
    result = run(world.run, until_s=600.0)
    assert len(result.chains) == len(result.model_hashes) == 1
    joiner = result.outcomes[DONORS]
    published_s = joiner.reported_s[0] - joiner.reports[0].seconds["wait"]
    waited_s = published_s - joiner.reports[0].seconds["train"] - ARRIVES_S
    needed_s = BLUEPRINT.size * 4 / RATE_BYTES_PER_S
    print(f"training began {waited_s:.2f} s after the start; the model alone takes the link {needed_s:.2f} s")
    assert waited_s <= 1.5 * needed_s
    before = median(gap for donor in result.outcomes[:DONORS] for gap in gaps_s(donor, 0.0, ARRIVES_S))
    during = median(
        gap for donor in result.outcomes[:DONORS] for gap in gaps_s(donor, ARRIVES_S, ARRIVES_S + 2 * before)
    )
    print(f"a donor's round: {before:.2f} s before, {during:.2f} s while the joiner comes")
    assert during <= 1.1 * before
