"""Returns of episodes in step, so that a policy acts in all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stepping import Environments

__all__ = ["EVALUATION_SEED", "Act", "episode_returns", "evaluation_seeds", "summary"]

EVALUATION_SEED = 10_000
"""Of the first episode of an evaluation; the next ones have the next seeds."""

Act = Callable[[Any], NDArray[Any]]
"""Actions (E, A) for a batch of E observations."""


def evaluation_seeds(episodes: int) -> list[int]:
    """Of the episodes of an evaluation."""
    return [EVALUATION_SEED + number for number in range(episodes)]


def episode_returns(act: Act, environments: Environments, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Sum of the rewards of one episode with each of the seeds, (E,).

    Args:
        act: is asked for all of these, also those that are over.
        environments: at least E of them.
        seeds: E of them.
    """
    observations = environments.reset(seeds)
    returns, over = np.zeros(len(seeds)), np.zeros(len(seeds), np.bool_)
    while not over.all():
        observations, rewards, over = environments.step(act(observations))
        returns += rewards
    return returns


def summary(returns: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": round(float(np.mean(returns)), 3), "std": round(float(np.std(returns)), 3)}
