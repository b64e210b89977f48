"""Returns of the policies of a stack, many episodes in step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.episodes import episode_returns
from benchmarks.stepping import Environments
from benchmarks.vectorised.stack import Stack
from benchmarks.vectorised.tables import Table

__all__ = ["evaluate"]


def evaluate(
    stack: Stack, table: Table, environments: Environments, *, episodes: int, seed: int
) -> NDArray[np.float64]:
    """Returns of some episodes of every run, (R, E).

    Args:
        stack: the policies.
        table: of any of its runs.
        environments: E for every run that is evaluated at once, all of one kind.
        episodes: E.
        seed: of the first episode of every run; the next ones have the next seeds.
    """
    at_once = len(environments) // episodes
    parts = [range(start, min(start + at_once, stack.num_runs)) for start in range(0, stack.num_runs, at_once)]
    return np.concatenate([_evaluate(stack, part, table, environments, episodes, seed) for part in parts])


def _evaluate(
    stack: Stack, part: range, table: Table, environments: Environments, episodes: int, seed: int
) -> NDArray[np.float64]:
    """Returns (n, E) of the runs of a part."""
    # The policies of the others act too, and nobody looks.
    seen = np.zeros((stack.num_runs, episodes, table.observation_size), np.float32)

    def act(observations: Any) -> NDArray[np.float32]:
        seen[part.start : part.stop] = table.encode(observations).reshape(len(part), episodes, -1)
        return stack.act(seen)[part.start : part.stop].reshape(len(part) * episodes, -1)

    seeds = [seed + episode for _ in part for episode in range(episodes)]
    return episode_returns(act, environments, seeds).reshape(len(part), episodes)
