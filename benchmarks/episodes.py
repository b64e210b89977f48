"""Returns of episodes in step, so that a policy acts in all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

__all__ = ["EVALUATION_SEED", "Act", "episode_returns", "evaluation_seeds", "summary"]

EVALUATION_SEED = 10_000
"""Of the first episode of an evaluation; the next ones have the next seeds."""

Act = Callable[[Any], NDArray[Any]]
"""Actions (E, A) for a batch of E observations."""


def evaluation_seeds(episodes: int) -> list[int]:
    """Of the episodes of an evaluation."""
    return [EVALUATION_SEED + number for number in range(episodes)]


def episode_returns(
    act: Act, environments: Sequence[gymnasium.Env[Any, Any]], seeds: Sequence[int]
) -> NDArray[np.float64]:
    """Sum of the rewards of one episode in every environment, (E,).

    Args:
        act: is asked for all environments, also those whose episode is over.
        environments: E of one kind.
        seeds: of their episodes, E of them.
    """
    space = environments[0].observation_space
    together: Any = create_empty_array(space, len(environments))
    observations = [env.reset(seed=seed)[0] for env, seed in zip(environments, seeds, strict=True)]
    returns, running = np.zeros(len(environments)), np.ones(len(environments), np.bool_)
    while running.any():
        together = concatenate(space, observations, together)
        actions = act(together)
        for place in np.flatnonzero(running):
            observations[place], reward, terminated, truncated, _ = environments[place].step(actions[place])
            returns[place] += float(reward)
            running[place] = not (terminated or truncated)
    return returns


def summary(returns: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": round(float(np.mean(returns)), 3), "std": round(float(np.std(returns)), 3)}
