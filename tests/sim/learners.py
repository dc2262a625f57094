"""The light learner under the name the tests know it by; it is part of the package (`p2pfusion.sim.light`)."""

from __future__ import annotations

from p2pfusion.sim.light import LightLearner, light_blueprint, light_learner

__all__ = ["LightLearner", "light_blueprint", "light_learner"]
