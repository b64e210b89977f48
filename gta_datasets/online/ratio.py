"""How many trajectories a step of the environment is worth: pure functions (ATraDiff, arXiv 2406.04323).

For every recorded transition a trajectory of `L` transitions is generated with probability rho / ((1 - rho) L), so that
there are rho / (1 - rho) generated transitions for a recorded one on average. A probability above 1 is that of one more
trajectory than its whole part. Trajectories that come out shorter or longer than announced change the probabilities
afterwards by what is missing, a little at a time, so that the proportion stays exact; so do those that fail.
"""

from __future__ import annotations

import math

__all__ = ["left_missing", "per_step", "trajectories", "with_failed"]

CATCH_UP = 500
"""Steps over which missing transitions are made up for."""


def per_step(rho: float) -> float:
    """Generated transitions for a recorded one, where `rho` in [0, 1) is the share of generated ones."""
    return rho / (1 - rho)


def trajectories(rho: float, missing: float, length: float, chance: float) -> int:
    """How many trajectories begin in the state of one recorded transition.

    Args:
        rho: share of generated transitions, in [0, 1).
        missing: transitions that were announced and not generated; negative where there were more.
        length: about how many transitions a trajectory from there will have.
        chance: a random number in [0, 1).
    """
    expected = max(0.0, per_step(rho) + missing / CATCH_UP) / length
    return math.floor(expected) + int(chance < expected % 1)


def left_missing(rho: float, missing: float) -> float:
    """What of `missing` is left after a recorded transition; a surplus shrinks by no more than was held back."""
    return missing - max(missing / CATCH_UP, -per_step(rho))


def with_failed(rho: float, missing: float, announced: float) -> float:
    """What is missing where nothing came of the `announced` transitions.

    As much as `CATCH_UP` steps are worth at most: a generator that goes on failing is not asked for more and more.
    """
    return max(missing, min(missing + announced, CATCH_UP * per_step(rho)))
