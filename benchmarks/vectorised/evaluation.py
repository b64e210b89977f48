"""Returns of the policies of a stack, all episodes in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmarks.episodes import episode_returns
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
    number, episodes = len(environments), len(environments[0])

    def act(observations: Any) -> NDArray[np.float32]:
        return stack.act(table.encode(observations).reshape(number, episodes, -1)).reshape(number * episodes, -1)

    seeds = [seed + episode for _ in range(number) for episode in range(episodes)]
    return episode_returns(act, [env for of_run in environments for env in of_run], seeds).reshape(number, episodes)
