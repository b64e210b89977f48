"""Returns of the policies of a stack, all episodes in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table

__all__ = ["evaluate"]

Environments = Sequence[Sequence[gymnasium.Env[Any, Any]]]


def evaluate(stack: Stack, table: Table, environments: Environments, *, seed: int) -> NDArray[np.float64]:
    """Return of one episode in every environment, (R, E).

    Args:
        stack: the policies.
        table: of any of its runs.
        environments: E for every run, all of one kind.
        seed: of the first episode of every run; the next ones have the next seeds.
    """
    flat = [env for of_run in environments for env in of_run]
    shape = len(environments), len(environments[0])
    space = flat[0].observation_space
    together: Any = create_empty_array(space, len(flat))
    observations = [env.reset(seed=seed + place % shape[1])[0] for place, env in enumerate(flat)]
    returns, running = np.zeros(len(flat)), np.ones(len(flat), np.bool_)
    while running.any():
        together = concatenate(space, observations, together)
        actions = stack.act(table.encode(together).reshape(*shape, -1)).reshape(len(flat), -1)
        for place in np.flatnonzero(running):
            observations[place], reward, terminated, truncated, _ = flat[place].step(actions[place])
            returns[place] += float(reward)
            running[place] = not (terminated or truncated)
    return returns.reshape(shape)
