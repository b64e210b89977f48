"""How far generated transitions lie from the source: distances to the nearest source point."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import Standardizer
from gta_datasets.errors import requires_extra

__all__ = ["Novelty", "nearest_distances", "novelty"]


@dataclass(frozen=True)
class Novelty:
    """Mean L2 distance to the nearest source point, every dimension in standard deviations of the source."""

    state: float
    action: float
    both: float


def novelty(generated: Episodes, source: Episodes, *, sample: int, rng: np.random.Generator) -> tuple[Novelty, Novelty]:
    """Novelty of the generated transitions and of the source itself (GTA, appendix D).

    Searches all of the source, exactly, for `sample` transitions of each. A source transition is compared with the
    other ones, which tells how far apart the real points lie.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    states, actions = Standardizer.fit(source.observations), Standardizer.fit(source.actions)
    points = _spaces(source, np.arange(source.num_transitions), states, actions)
    made = _spaces(generated, _draw(generated.num_transitions, sample, rng), states, actions)
    own = _draw(source.num_transitions, sample, rng)
    of_generated = (nearest_distances(made[name], points[name]).mean() for name in points)
    of_source = (nearest_distances(points[name][own], points[name], own=own).mean() for name in points)
    return Novelty(*map(float, of_generated)), Novelty(*map(float, of_source))


def nearest_distances(
    queries: NDArray[np.float32], points: NDArray[np.float32], *, own: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """L2 distance from each of `queries (n, dim)` to the nearest of `points (m, dim)`, found by exact search, (n,).

    `own (n,)` names the row of `points` that a query is itself, which is then not its neighbour.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    faiss = _faiss()
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(points))
    neighbours = min(1 if own is None else 2, len(points))
    _, found = index.search(np.ascontiguousarray(queries), neighbours)
    # faiss expands |a - b|^2, which cancels for close points: the distances themselves are computed again.
    gaps = queries[:, None].astype(np.float64) - points[found]
    distances = np.sqrt((gaps**2).sum(axis=2))
    if own is not None and neighbours == 2:
        distances[found == own[:, None]] = np.inf
    return np.asarray(distances.min(axis=1))


def _spaces(
    episodes: Episodes, rows: NDArray[np.int64], states: Standardizer, actions: Standardizer
) -> dict[str, NDArray[np.float32]]:
    """Some transitions as points of the spaces of `Novelty`, in the order of its fields."""
    state = states.forward(episodes.observations[episodes.transition_rows[rows]])
    action = actions.forward(episodes.actions[rows])
    return {"state": state, "action": action, "both": np.concatenate([state, action], axis=1)}


def _draw(size: int, sample: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`sample` distinct numbers below `size`, or all of them where there are fewer."""
    return np.arange(size) if size <= sample else rng.choice(size, sample, replace=False)


def _faiss() -> Any:
    with requires_extra("novelty", "faiss", "novelty needs"):
        return importlib.import_module("faiss")
