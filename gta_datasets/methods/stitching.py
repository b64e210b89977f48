"""After how many steps two recorded pieces are joined, and the joined trajectories: pure functions on arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes, end_flags

__all__ = ["Plans", "estimate_steps", "join", "window_rows"]


def estimate_steps(
    imagined: NDArray[np.float32], targets: NDArray[np.float32], *, shortest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """After how many steps which target is reached (DiffStitch, section 4.1).

    Args:
        imagined: normalised states that follow a start, the start first, (B, H + 1, S).
        targets: normalised states to choose from, (B, K, S).
        shortest: fewest steps.

    Returns:
        Steps (B,), at least `shortest`, and the target's place (B,): those of the imagined state and the target of the
        largest cosine similarity, the earliest of equals.
    """
    similarity = _unit(imagined[:, shortest:]) @ _unit(targets).transpose(0, 2, 1)
    best = similarity.reshape(len(imagined), -1).argmax(axis=1)
    steps, chosen = np.unravel_index(best, similarity.shape[1:])
    return np.asarray(steps + shortest), np.asarray(chosen)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


class Plans(NamedTuple):
    """What is to be joined: a recorded piece, a generated bridge, a recorded piece."""

    source_episode: NDArray[np.int64]  # (B,)
    source_start: NDArray[np.int64]  # (B,) first transition of the first piece
    target_episode: NDArray[np.int64]  # (B,)
    target_start: NDArray[np.int64]  # (B,) first transition of the second piece
    bridge: NDArray[np.int64]  # (B,) generated transitions
    before: int  # transitions of the first piece
    length: int  # transitions of a trajectory, the same for all

    @property
    def arrival(self) -> NDArray[np.int64]:
        """Transitions before the second piece, (B,)."""
        return self.before + self.bridge

    def generated_states(self) -> NDArray[np.bool_]:
        """Which states are generated, (B, length + 1): those between the pieces."""
        steps = np.arange(self.length + 1)
        return np.asarray((steps > self.before) & (steps < self.arrival[:, None]))

    def generated_steps(self) -> NDArray[np.bool_]:
        """Which transitions are generated, (B, length): those that begin or end between the pieces."""
        steps = np.arange(self.length)
        return np.asarray((steps >= self.before) & (steps < self.arrival[:, None]))


def join(plans: Plans, episodes: Episodes) -> Episodes:
    """Trajectories that hold copies of both recorded pieces; within the bridge, the first piece's last state and step.

    A trajectory ends as its second piece does: terminated where that is, truncated otherwise.
    """
    transitions = _places(plans, episodes.offsets, plans.length)
    offsets = np.arange(len(plans.bridge) + 1) * plans.length
    terminations, truncations = end_flags(offsets, episodes.terminations[transitions[:, -1]])
    return Episodes(
        observations=_flat(episodes.observations[_places(plans, episodes.observation_offsets, plans.length + 1)]),
        actions=_flat(episodes.actions[transitions]),
        rewards=_flat(episodes.rewards[transitions]),
        terminations=terminations,
        truncations=truncations,
        offsets=offsets,
    )


def window_rows(plans: Plans, episodes: Episodes, horizon: int) -> NDArray[np.int64]:
    """Rows of `episodes.observations` that the window of every bridge shows, (B, horizon + 1).

    The bridge's first state until the bridge ends; from there on the second piece.
    """
    return _places(plans, episodes.observation_offsets, plans.before + horizon + 1)[:, plans.before :]


def _places(plans: Plans, offsets: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Where the first `steps` steps of every trajectory lie in the source; in the bridge, its start, (B, steps)."""
    step, arrival = np.arange(steps), plans.arrival[:, None]
    source = (offsets[plans.source_episode] + plans.source_start)[:, None] + np.minimum(step, plans.before)
    target = (offsets[plans.target_episode] + plans.target_start)[:, None] + step - arrival
    return np.where(step >= arrival, target, source)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """(B, steps, ...) -> (B * steps, ...)."""
    return values.reshape(-1, *values.shape[2:])
